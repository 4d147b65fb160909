"""Trace: a network of PyTorch becomes an ONNX graph, by PyTorch's current exporter or by its older one."""

from __future__ import annotations

import logging
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import onnx
import torch

from exporters.base import ExportError
from exporters.export_options import CURRENT, OLDER

INPUT, OUTPUT, BATCH = "input", "logits", "N"

# The first set of operators that the current exporter writes. Older ones are converted from it.
FIRST_OPSET = 18

_PLACE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_PICTURES = 2


def traced(module: torch.nn.Module, size: int, exporter: str, opset: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The network as ONNX with any number of pictures, [N, 3, size, size], and what the exporter warned of.

    Args:
        module: in eval mode, on the CPU.
        exporter: one of `exporters.export_options.EXPORTERS`.
        opset: wanted; the current exporter writes no older one than `FIRST_OPSET`.

    Raises:
        ExportError: the exporter cannot follow the network; the message names the place.
    """
    example = torch.zeros(_PICTURES, 3, size, size)
    with _quiet(), torch.no_grad():
        if exporter == CURRENT:
            return _followed(module, example, max(opset, FIRST_OPSET))
        return _recorded(module, example, opset)


def _followed(module: torch.nn.Module, example: torch.Tensor, opset: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    batch = torch.export.Dim(BATCH, min=1)
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
    except Exception as error:
        raise _refusal(error, CURRENT) from error
    assert made is not None, "the current exporter returns what it made"
    proto: onnx.ModelProto = made.model_proto
    return proto, ()


def _recorded(module: torch.nn.Module, example: torch.Tensor, opset: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = Path(folder) / "recorded.onnx"
        try:
            torch.onnx.export(
                module,
                (example,),
                file,
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
                # Else it folds batch norms itself, and the weights that it makes have numbers for names.
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
        except Exception as error:
            raise _refusal(error, OLDER) from error
        model = onnx.load(str(file))
    frozen = [each for each in caught if each.category.__name__ == "TracerWarning"]
    if not frozen:
        return model, ()
    note = (
        f"the older exporter took {len(frozen)} values that it saw for constants, the first in "
        f"{_short(frozen[0].filename)}:{frozen[0].lineno}; the file is right only if they are the same for all pictures"
    )
    return model, (note,)


def _refusal(error: Exception, exporter: str) -> ExportError:
    """One message for whatever an exporter raises: which line of the network, why, what to do."""
    places = _PLACE.findall(str(error))
    frames = [(each.filename, each.lineno, each.name) for each in traceback.extract_tb(error.__traceback__)]
    outside = [each for each in frames if "/torch/" not in each[0] and each[0] != __file__]
    place = next(iter(reversed(places or outside)), None)
    where = f" at {_short(str(place[0]))}:{place[1]}, in {place[2]}" if place else ""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "data-dependent" in str(error):
        reason = f"the network decides by the values of its input ({reason})"
        advice = "an ONNX file has one path for all pictures: compute both branches and choose with torch.where"
    elif "Constraints violated" in str(error):
        reason = "the network is made for a certain number of pictures"
        advice = f"take the size of the batch from the input, as in x.flatten(1), or try --exporter {OLDER}"
    elif exporter == CURRENT:
        advice = f"change that line, or try --exporter {OLDER}"
    else:
        advice = f"change that line, or try --exporter {CURRENT}"
    return ExportError(f"PyTorch's exporter ({exporter}) cannot follow the network{where}: {reason}; {advice}")


def _short(path: str) -> str:
    """The last two parts of a path: what tells files apart, and says nothing of the machine."""
    return "/".join(Path(path).parts[-2:])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own log and warnings: what of them matters becomes a message of ours."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
