"""Inspection: the certificate of a model file on its own, without pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from engines.artifact import Artifact, format_of
from engines.base import Array, EngineOptions
from engines.certificate import Certificate, LayerProof
from harness.registry import artifact_from_model, check_engine, engine_certifier, engines_for


def inspection_report(path: Path, engine: str | None, trust: bool = False) -> Group:
    """Run the model once on random numbers and show which kernels ran.

    Args:
        engine: what runs it; ``None`` for the first that runs such files.
        trust: take a file that is not the one its sidecar describes.

    Raises:
        HarnessError, ArtifactError, EngineError: the message says what to change.
    """
    name = format_of(path)
    engine = engine or engines_for(name)[0]
    check_engine(engine, name, path.name)
    artifact, certify = artifact_from_model(path, trust), engine_certifier(engine)
    shape = [size or 1 for size in artifact.input.shape]
    certificate = certify(artifact, EngineOptions(), {artifact.input.name: random_input(artifact, shape, 0)})
    return Group(Text(_sentence(artifact, certificate)), _kernels(certificate), *_fallbacks(certificate))


def random_input(artifact: Artifact, shape: Sequence[int], seed: int) -> Array:
    """Noise that a model takes: levels in uint8, or standard normal numbers in float32."""
    draw = np.random.default_rng(seed)
    if artifact.input.dtype == "uint8":
        return draw.integers(0, 256, shape, np.uint8)
    return draw.standard_normal(tuple(shape), dtype=np.float32)


def _sentence(artifact: Artifact, certificate: Certificate) -> str:
    fraction = certificate.integer_fraction
    share = "no multiply-accumulates" if fraction is None else f"{100 * fraction:.2f} %"
    evidence = certificate.evidence
    trained = f"; trained for {artifact.made_by['runs_as']}" if "runs_as" in artifact.made_by else ""
    return (
        f"{artifact.path.name}: {share} of {certificate.total_macs:,} multiply-accumulates per picture ran on "
        f"integer kernels ({evidence['runtime']}, {evidence['provider']}, {evidence['kernel_class']}){trained}"
    )


def _kernels(certificate: Certificate) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in ("kernel", "fed with", "layers", "MACs"):
        table.add_column(column, justify="left" if column in ("kernel", "fed with") else "right")
    groups: dict[tuple[str, str], list[int]] = {}
    for layer in certificate.layers:
        key = (layer.kernel or "none matched", " x ".join(layer.input_types))
        groups.setdefault(key, []).append(layer.macs)
    for (kernel, types), macs in sorted(groups.items(), key=lambda item: -sum(item[1])):
        table.add_row(kernel, types, str(len(macs)), f"{sum(macs):,}")
    return table


def _fallbacks(certificate: Certificate) -> list[Table]:
    """The layers in float by reason, the most work first."""
    groups: dict[str, list[LayerProof]] = {}
    for layer in certificate.fallbacks:
        groups.setdefault(layer.reason or "", []).append(layer)
    if not groups:
        return []
    table = Table(title="layers not on integer kernels", title_justify="left", box=SIMPLE_HEAD)
    for column in ("reason", "layers", "MACs", "largest"):
        table.add_column(column, justify="right" if column in ("layers", "MACs") else "left")
    for reason, layers in sorted(groups.items(), key=lambda item: -sum(x.macs for x in item[1])):
        table.add_row(reason, str(len(layers)), f"{sum(x.macs for x in layers):,}", layers[0].layer)
    return [table]
