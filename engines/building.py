"""Building: what a row of `engines.BUILDERS` offers. A plan is a network as code for one machine.

The options are common to all builders. One that cannot follow an option refuses it; none is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from engines.artifact import Artifact
from engines.base import EngineError

# How a layer without Q/DQ computes. In "tf32" the products of float layers may be rounded to 10 bits.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
NONE, SAME_COMPUTE_CAPABILITY, AMPERE_PLUS = "none", "same-compute-capability", "ampere-plus"
HARDWARE = (NONE, SAME_COMPUTE_CAPABILITY, AMPERE_PLUS)
REUSE, FRESH = "reuse", "fresh"
TIMING_CACHES = (REUSE, FRESH)
DEFAULT_BATCH = (1, 8, 64)
LEVELS = range(6)

# Called with the name of a phase, the steps done, and all its steps.
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Args:
        precision: of the layers without Q/DQ, one of `PRECISIONS`.
        batch: smallest, likeliest and largest batch of a model that takes any; ``None`` for `DEFAULT_BATCH`.
        workspace_mib: limit of the memory that a layer may use while it runs; ``None`` for all of the GPU's.
        level: how long the builder searches, 0 to 5.
        version_compatible: whether newer versions of TensorRT may run the plan.
        hardware: one of `HARDWARE`: which other GPUs may.
        external_tactics: whether kernels of cuBLAS and cuDNN are tried, where the version has them.
        timing_cache: "reuse" the times that an earlier build kept beside the plan, or start with a "fresh" cache.

    Raises:
        EngineError: a value is none of these.
    """

    precision: str = "fp32"
    batch: tuple[int, int, int] | None = None
    workspace_mib: int | None = None
    level: int = 3
    version_compatible: bool = False
    hardware: str = NONE
    external_tactics: bool = True
    timing_cache: str = REUSE

    def __post_init__(self) -> None:
        for name, known in (
            ("precision", PRECISIONS),
            ("hardware", HARDWARE),
            ("level", LEVELS),
            ("timing_cache", TIMING_CACHES),
        ):
            if getattr(self, name) not in known:
                raise EngineError(f"{name}: expected one of {', '.join(map(str, known))}; got {getattr(self, name)!r}")
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise EngineError(f"batch: expected 1 <= smallest <= likeliest <= largest; got {self.batch}")
        if self.batch is not None and 1 < self.batch[0] < self.batch[2]:
            raise EngineError(
                f"batch: expected 1 as the smallest, or three times the same; got {self.batch}. The last batch of "
                f"a run may be a single picture: it is filled up for a plan of one size, not for one of several"
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise EngineError(f"workspace_mib: expected at least 1; got {self.workspace_mib}")

    @property
    def digest(self) -> str:
        """Eight digits that tell these options from others."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Built:
    """A plan, and what the user should know of how it was built."""

    artifact: Artifact
    notes: tuple[str, ...]


class BuildPlan(Protocol):
    """What a row of `engines.BUILDERS` names as ``target``."""

    def __call__(self, artifact: Artifact, path: Path, options: BuildOptions, on_step: OnStep) -> Built:
        """Write ``path`` and its sidecar. What is there stays until all of the new plan is.

        Args:
            artifact: of the ONNX file; the plan inherits its preprocessing, classes and output kind.
            on_step: told of the builder's phases and steps, where it reports them.

        Raises:
            EngineUnavailable: there is no driver or device.
            EngineError: the file or the options are refused, or ``path`` cannot be written.
        """


# What a row names as ``compare``: the layers for which several builds of one model chose different kernels.
ComparePlans = Callable[[Sequence[Path]], tuple[str, ...]]
