"""What ONNX Runtime's TensorRT provider is given: its libraries, and the batches that it builds for.

A wheel puts the libraries where the loader does not look. What the process has loaded already is found by its name, so
nobody needs to set ``LD_LIBRARY_PATH``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines.artifact import Artifact
from engines.base import EngineUnavailable
from engines.trt.presence import libraries, library_file, provider_lines

ENGINE = "engine 'ort-tensorrt'"


def load_libraries(
    sonames: Sequence[str],
    find: Callable[[str], Path | None] = library_file,
    open_library: Callable[..., Any] = ctypes.CDLL,
) -> None:
    """Load libraries by the file that was found, or by their name where none was.

    Args:
        sonames: such as "libnvinfer.so.10", of `engines.trt.presence.provider_sonames`.

    Raises:
        EngineUnavailable: one is missing, or is here and cannot be loaded; the message says which of the two.
    """
    for soname in sonames:
        file = find(soname)
        try:
            open_library(str(file or soname), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            if file is not None:
                raise EngineUnavailable(
                    f"{ENGINE}: {file} is here, but cannot be loaded: {error}. What it names is missing, or of another "
                    f"CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's libraries"
                ) from error
            wanted = "; ".join(provider_lines(soname, libraries()))
            raise EngineUnavailable(f"{ENGINE}: {wanted} ({error})") from error


def profile_options(artifact: Artifact, batch: tuple[int, int, int]) -> dict[str, str]:
    """The provider's options that have it build when it is opened, for the smallest, likeliest and largest batch.

    Without them it builds in the first call, and again in each with a batch that is smaller or larger than all before
    (https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html, "Explicit shape range").
    """
    row = "x".join(str(length) for length in artifact.input.shape[1:])
    shapes = (f"{artifact.input.name}:{rows}x{row}" for rows in batch)
    return {f"trt_profile_{which}_shapes": shape for which, shape in zip(("min", "opt", "max"), shapes, strict=True)}
