"""``export``: a network of PyTorch becomes an ONNX file that is seen to give the same answers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from exporters import MODELS, TARGETS
from exporters.comparison import MOST_ERROR, MOST_MEAN_ERROR, Comparison, ParityFailed
from exporters.export_options import CURRENT, EXPORTERS
from harness.errors import HarnessError
from harness.export import COMPARED_PICTURES, ExportJob, classes_from_option, network_from_job, pictures_for
from harness.exporting import onnx_exporter
from noise.presets import preset_names

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    export = commands.add_parser("export", help="write a network of PyTorch as ONNX, and prove that it is the same")
    sources = "; ".join(f"{name}: {row.about}" for name, row in MODELS.items())
    export.add_argument("spec", metavar="SOURCE:NAME", help=sources)
    export.add_argument("-o", "--output", metavar="FILE", required=True, help="the ONNX file; FILE.json is its sidecar")
    export.add_argument(
        "--arch", default="", metavar="SPEC", help="of a checkpoint: the network whose weights it holds"
    )
    export.add_argument("--entry", default="", metavar="KEY", help="of a checkpoint that holds several sets of weights")
    export.add_argument("--classes", default="0", metavar="N|FILE", help="how many, or a file with a name on each line")
    export.add_argument("--size", type=int, default=0, metavar="N", help="height and width of the input, in pixels")
    export.add_argument("--preprocess", default="", metavar="PRESET", help=f"one of {', '.join(preset_names())}")
    export.add_argument("--bake", action="store_true", help="take 8-bit levels [N, H, W, 3]; normalise in the graph")
    targets = f"one of {', '.join(TARGETS)}; chooses the opset; default: %(default)s"
    export.add_argument("--for", dest="target", default="ort-cpu", metavar="TARGET", help=targets)
    export.add_argument("--opset", type=int, default=0, metavar="N", help="of ONNX, instead of the target's")
    exporters = f"{' or '.join(EXPORTERS)}: PyTorch's current one, or its older one; default: %(default)s"
    export.add_argument("--exporter", default=CURRENT, metavar="NAME", help=exporters)
    export.add_argument(
        "--data",
        default="",
        metavar="DATA",
        help=f"compare on {COMPARED_PICTURES} of these; default: embedded pictures",
    )
    export.add_argument("--seed", type=int, default=0, metavar="N", help="of every random draw; default 0")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace, console: Console) -> int:
    job = ExportJob(
        spec=options.spec,
        arch=options.arch,
        entry=options.entry,
        classes=classes_from_option(options.classes),
        size=options.size,
        preprocess=options.preprocess,
        data=options.data,
        target=options.target,
        opset=options.opset,
        exporter=options.exporter,
        bake=options.bake,
        seed=options.seed,
    )
    path = Path(options.output)
    if path.suffix != ".onnx" or not path.parent.is_dir():
        raise HarnessError(f"-o names the new file, FILE.onnx in a folder that exists; got {path}")
    if job.size < 0:
        raise HarnessError(f"--size is a number of pixels; got {job.size}")
    how, write = job.options(), onnx_exporter()
    network = network_from_job(job)
    try:
        made = write(network, how, pictures_for(network, job), path)
    except ParityFailed as error:
        console.print(_table(error.comparisons))
        raise
    for note in made.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if made.artifact.preprocessing is None:
        text = "no preprocessing is known; write it into the sidecar, or export again with --preprocess"
        console.print(f"note: {text}", style="yellow", markup=False)
    console.print(_table(made.comparisons))
    facts, artifact = made.artifact.made_by, made.artifact
    console.print(
        f"{path.resolve()}: {artifact.input.dtype} {artifact.input.shape_text} to {artifact.class_count} classes, "
        f"opset {facts['opset']} by {facts['exporter']}{'' if facts['simplified'] else ', not simplified'}",
        markup=False,
    )
    return 0


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title="PyTorch against ONNX Runtime",
        caption=f"passes with a maximum of at most {MOST_ERROR:g} and a mean of at most {MOST_MEAN_ERROR:g} of the "
        f"deviation, by which the logits change from input to input; another top class must be level within that",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("inputs", "batch", "n", "max error", "mean error", "deviation", "same top-1", ""):
        table.add_column(name, justify="left" if name in ("inputs", "") else "right")
    for each in comparisons:
        found = each.parity
        numbers = [f"{value:.3g}" for value in (found.max_error, found.mean_error, found.deviation)]
        agreement = f"{found.agreeing} of {found.n}"
        verdict = "passed" if each.passed else "FAILED"
        table.add_row(each.inputs, str(each.batch), str(found.n), *numbers, agreement, verdict)
    return table
