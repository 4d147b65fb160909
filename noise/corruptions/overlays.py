"""The photographs of frost that ImageNet-C lays over pictures. They have no licence of their own: others bring them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import MissingData, NoiseError

# A sixth lies beside them, but the original draws from five.
NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
PUBLISHED_SHA256 = "c146cff9eab2397f71c47ee7c727e2f8a36cf7445b8daf1dad63a0ce34140861"

_folders: list[Path] = []


def use_folder(folder: Path) -> None:
    """Look for the overlays in this folder too. Where they lie changes nothing: what they are is checked.

    Raises:
        NoiseError: the five are not there, or they are not the published ones.
    """
    missing = [name for name in NAMES if not (folder / name).is_file()]
    if missing:
        raise NoiseError(f"{folder} lacks {', '.join(missing)}; frost needs the overlays {', '.join(NAMES)}")
    if _sha256(folder) != PUBLISHED_SHA256:
        raise NoiseError(
            f"the overlays in {folder} are not those of ImageNet-C (SHA-256 of all five in a row: {_sha256(folder)}, "
            f"expected {PUBLISHED_SHA256})"
        )
    if folder not in _folders:
        _folders.append(folder)


@lru_cache(maxsize=1)
def published() -> tuple[npt.NDArray[np.uint8], ...]:
    """The five overlays, uint8 [H, W, 3] RGB; transparency is dropped, as the original does.

    Raises:
        MissingData: they are in no folder that was named, and ``imagecorruptions`` is not installed.
    """
    spec = find_spec("imagecorruptions")
    packaged = [Path(place) / "frost" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in (*_folders, *packaged):
        if all((folder / name).is_file() for name in NAMES) and _sha256(folder) == PUBLISHED_SHA256:
            return tuple(_overlay(folder / name) for name in NAMES)
    raise MissingData(
        f"frost needs ImageNet-C's overlays: name the folder of {', '.join(NAMES)} with --frost-overlays, or run "
        f"pip install imagecorruptions, which carries them"
    )


def _overlay(path: Path) -> npt.NDArray[np.uint8]:
    stored = np.frombuffer(path.read_bytes(), np.uint8)
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1]


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in NAMES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
