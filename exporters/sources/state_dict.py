"""State dicts: weights out of a file, without running what else it may hold, and into a network."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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

# What training scripts keep beside the weights, their options and their scores: a plain object and numbers of NumPy,
# which run no code of anybody's when they are read. NumPy 1 and 2 write the same function under two names.
_NUMBER: Any = np.float64().__reduce__()[0]
_PLAIN: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
    *((_NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)

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
    content = _safetensors(path) if path.suffix == ".safetensors" else unpickled(path)
    return _weights(content, path, entry)


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ExportError(f"{path} is not a file of safetensors: {error}") from error


def unpickled(path: Path) -> Any:
    """What torch.save wrote, on the CPU. What is no tensor, number, text or container of these is refused, not run.

    Raises:
        ExportError: code in it, or no file of PyTorch.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_PLAIN]):
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
    sets = [key for key, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)]
    found = [key for key in ENTRIES if key in sets]
    if found:  # before the bare form: beside the weights there may be a tensor, such as the best accuracy
        return _only_tensors(content[found[0]], path), found[0], tuple(found[1:])
    if _has_tensors(content) and not sets:
        return _only_tensors(content, path), "", ()
    raise ExportError(
        f"{path} has no weights under the usual names; it has {listed(map(str, content))}. Name the entry with "
        f"--entry KEY; {_NO_STATE}"
    )


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


def _only_tensors(content: Any, path: Path) -> State:
    state = (
        {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise ExportError(f"{path} holds no tensors; {_NO_STATE}")
    return state


def fitted(state: State, names: Iterable[str]) -> tuple[State, str, tuple[str, ...]]:
    """The state under the names that a network has, without what wrappers put in front of them, and without counters.

    Args:
        state: as it is in the file.
        names: the network's own.

    Returns:
        the state; the prefix of only a part of the names ("" for none) that was taken off, where the part with it has
        all that the network needs; the names of the rest, which is left out.
    """
    own = [name for name in names if not _counts(name)]
    state = {name: value for name, value in state.items() if not _counts(name)}
    while state:
        prefix = next((each for each in PREFIXES if all(name.startswith(each) for name in state)), "")
        if not prefix or all(name.startswith(prefix) for name in own):
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    prefix = _prefix_of_a_part(state, own)
    if not prefix:
        return state, "", ()
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return part, prefix, tuple(name for name in state if not name.startswith(prefix))


def _prefix_of_a_part(state: State, own: list[str]) -> str:
    """What stands in front of all of the network's names in the state, the usual prefixes first; "" for nothing."""
    if not own or all(name in state for name in own):
        return ""
    tried = [name.removesuffix(own[0]) for name in state if name.endswith(f".{own[0]}")]
    fits = [prefix for prefix in tried if all(prefix + name in state for name in own)]
    return min(fits, key=lambda prefix: prefix not in PREFIXES, default="")


def _counts(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in COUNTERS
