"""``rewrite``: the same network with an operator computed as another runtime does it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines.onnx_file import artifact_from_onnx
from exporters import VARIANTS
from exporters.operators import write_variant
from harness.commands.files import check_output, with_chosen_preprocessing
from harness.commands.options import add_model, recipe_from_options
from harness.registry import VARIANT_TABLE

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    rewrite = commands.add_parser("rewrite", help="write a model with an operator as another runtime computes it")
    add_model(rewrite)
    variants = "; ".join(f"{name}: {row.about}" for name, row in VARIANTS.items())
    rewrite.add_argument("--operator", required=True, metavar="VARIANT", help=variants)
    rewrite.add_argument("-o", "--output", metavar="FILE", required=True, help="the new model")
    rewrite.set_defaults(command=_rewrite)


def _rewrite(options: argparse.Namespace, console: Console) -> int:
    recipe = recipe_from_options(options, scores=False)
    check_output(options.output, recipe)
    variant = VARIANT_TABLE.resolve(options.operator)
    artifact = with_chosen_preprocessing(artifact_from_onnx(Path(recipe.model)), recipe)
    written = write_variant(artifact, options.operator, variant, Path(options.output))
    nodes = written.made_by["nodes"]
    console.print(f"{written.path}: {len(nodes)} nodes of {artifact.path.name} rewritten: {', '.join(nodes)}")
    return 0
