"""A network that the user's own code makes: `python:MODULE:FACTORY`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from exporters.base import ExportError
from exporters.sources.base import Network, Request, no_such
from exporters.sources.weights import drawn


def load(request: Request) -> Network:
    """What a factory returns. Importing its module runs the user's code, as Python does it.

    Args:
        request: its name is ``MODULE:FACTORY``; the working directory is searched for the module too. The factory is
            called without arguments, after PyTorch's generator has been seeded, so it decides on the number of classes.

    Raises:
        ExportError: no such module or factory; the factory fails, or makes no network.
    """
    module_name, _, factory_name = request.name.partition(":")
    if not module_name or not factory_name:
        raise ExportError(f"expected python:MODULE:FACTORY; got python:{request.name}")
    factory = _factory(module_name, factory_name)
    try:
        made = drawn(request.seed, factory)
    except Exception as error:
        raise ExportError(f"python:{request.name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, torch.nn.Module):
        raise ExportError(f"python:{request.name} made {type(made).__name__}; expected a torch.nn.Module")
    about = {"factory": request.name, "seed": request.seed}
    return Network(made, about)


def _factory(module_name: str, factory_name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or " "):
            raise ExportError(
                f"python:{module_name} needs the package {error.name!r}, which is not installed"
            ) from error
        raise ExportError(f"there is no module {module_name!r} in {here} or among the installed packages") from error
    except Exception as error:
        raise ExportError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, factory_name, None)):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise no_such(f"function in {module_name}", factory_name, known, f"see {module.__file__}")
    return getattr(module, factory_name)
