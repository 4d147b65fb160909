"""State dicts: weights out of a file, without running what else it may hold, and into a network."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from exporters.base import ExportError
from exporters.sources.base import listed

State = dict[str, torch.Tensor]

# Under which keys training scripts keep the weights, the likeliest first.
ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
)
# What wrappers put in front of every name: DataParallel, torch.compile, Lightning, averaged models.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema.")
# Counters that no answer depends on.
COUNTERS = ("num_batches_tracked", "n_averaged")

_UNSAFE = re.compile(r"GLOBAL ([\w.]+)|Trying to instantiate a class ([\w.]+)|class ([\w.]+)")
_NO_STATE = "expected the weights of a network: torch.save(model.state_dict(), FILE), or a file of safetensors"


def read_state(path: Path, entry: str = "") -> tuple[State, str, tuple[str, ...]]:
    """The weights in a file, the entry that they were under ("" for none), and the entries that were passed over.

    Pickles are read with ``weights_only=True``: what else they hold is refused, not run.

    Args:
        entry: the key under which they are; "" has the usual ones tried.

    Raises:
        ExportError: no such file, code in it, or no weights.
    """
    if not path.is_file():
        raise ExportError(f"there is no checkpoint {path}")
    content = _safetensors(path) if path.suffix == ".safetensors" else _unpickled(path)
    return _weights(content, path, entry)


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ExportError(f"{path} is not a file of safetensors: {error}") from error


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are read or refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _UNSAFE.search(str(error))
        if found is None:
            raise ExportError(
                f"{path} is not a checkpoint of PyTorch, and nothing in it was run; {_NO_STATE}"
            ) from error
        raise ExportError(
            f"{path} holds more than weights: loading it would call {next(filter(None, found.groups()))}. It was not "
            f"loaded, and nothing in it was run. Save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # a byte that is wrong may stand for any operation of the format
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(f"{path} is not a checkpoint of PyTorch ({reason}); {_NO_STATE}") from error


def _weights(content: Any, path: Path, entry: str) -> tuple[State, str, tuple[str, ...]]:
    if not isinstance(content, Mapping):
        raise ExportError(f"{path} holds {type(content).__name__}; {_NO_STATE}")
    if entry:
        if entry not in content:
            raise ExportError(f"{path} has no entry {entry!r}; it has {listed(map(str, content))}")
        return _only_tensors(content[entry], path), entry, ()
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return _only_tensors(content, path), "", ()
    found = [key for key in ENTRIES if isinstance(content.get(key), Mapping) and content[key]]
    if not found:
        raise ExportError(
            f"{path} has no weights under the usual names; it has {listed(map(str, content))}. Name the "
            f"entry with --entry KEY; {_NO_STATE}"
        )
    return _only_tensors(content[found[0]], path), found[0], tuple(found[1:])


def _only_tensors(content: Any, path: Path) -> State:
    state = (
        {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise ExportError(f"{path} holds no tensors; {_NO_STATE}")
    return state


def fitted(state: State, names: Iterable[str]) -> State:
    """The state without the prefixes of wrappers that the network's own names do not have, and without counters."""
    own = list(names)
    state = {name: value for name, value in state.items() if name.rsplit(".", 1)[-1] not in COUNTERS}
    while state:
        prefix = next((each for each in PREFIXES if all(name.startswith(each) for name in state)), "")
        if not prefix or all(name.startswith(prefix) for name in own):
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
