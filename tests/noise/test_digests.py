"""The bytes of every corruption, pinned: a change of any is deliberate, and raises the version of the corruptions.

After a deliberate change: raise `noise.corruptions.VERSION` and write the table again with
``python -m tests.noise.test_digests``.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import cv2
import numpy as np
import pytest

from noise.corrupt import corrupt, corruption_names
from noise.corruptions import VERSION
from tests.noise.reference import LEVELS, Picture

TABLE = Path(__file__).parent / "digests.json"
# OpenCV samples at 32nds of a pixel before version 5, and exactly from then on; and the last bit of a sum in single
# precision depends on whether the processor multiplies and adds at once, which with AVX2 it does.
VECTORS = "with AVX2" if "*AVX2" in cv2.getCPUFeaturesLine().split() else f"on {platform.machine()} without AVX2"
LIBRARY = f"OpenCV {cv2.__version__.split('.')[0]} {VECTORS}"
SIZES = ((224, 224), (97, 130))


def waves(height: int, width: int) -> Picture:
    """A picture from integers only, the same everywhere: bent stripes of three colours, squares, and fine grain."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        (x * (5 + c) + y * y // (7 + c) + (x * y * 31 + c * 17) % 61 + 40 * ((x // 24 + y // 24) % 2)) for c in range(3)
    ]
    return np.asarray(np.abs(np.stack(planes, axis=2) % 510 - 255), np.uint8)


def digests(name: str) -> dict[str, str]:
    """severity and size -> SHA-256 of the bytes."""
    return {
        f"{level} at {height} x {width}": hashlib.sha256(
            corrupt(waves(height, width), name, level, sample_id="n01440764/picture.JPEG").tobytes()
        ).hexdigest()
        for level in LEVELS
        for height, width in SIZES
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.needs_overlays) if n == "frost" else n for n in corruption_names()]
)
def test_bytes_are_those_of_the_table(name: str) -> None:
    table = json.loads(TABLE.read_text())
    assert table["version"] == VERSION, "the version was raised: write the table again"
    if LIBRARY not in table["digests"][name]:
        pytest.skip(f"no digests were written with {LIBRARY}")
    assert digests(name) == table["digests"][name][LIBRARY], (
        f"the bytes of {name} changed: raise noise.corruptions.VERSION and write the table again, or find out why"
    )


def test_table_has_every_corruption() -> None:
    assert set(json.loads(TABLE.read_text())["digests"]) == set(corruption_names())


def main() -> None:
    """Write the digests of this OpenCV on this processor; those of others stay while the corruptions' version does."""
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    known = table["digests"] if table.get("version") == VERSION else {}
    for name in corruption_names():
        known.setdefault(name, {})[LIBRARY] = digests(name)
    TABLE.write_text(json.dumps({"version": VERSION, "digests": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
