"""Sheet: one picture under every corruption and severity, side by side as in the paper on ImageNet-C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness.corrupt import Request
from harness.errors import HarnessError
from harness.manifest import whole_file
from harness.preprocess import compile_tree

# All in pixels.
TILE, GAP, MARGIN, LABEL_GAP = 112, 4, 16, 12
FONT_SIZE, HEAD = 15, 28
INK, PAPER = (32, 32, 32), (255, 255, 255)


def write_sheet(picture: Path, out: Path, request: Request) -> None:
    """Draw the sheet of a picture file as a PNG.

    Raises:
        HarnessError: no such file, a picture that cannot be decoded, a place that cannot be used.
    """
    if picture.is_dir():
        raise HarnessError(f"{picture} is a folder; --sheet takes one picture, and -o takes a folder")
    if not picture.is_file():
        raise HarnessError(f"there is no picture {picture}")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise HarnessError(f"--sheet writes one PNG; name a file that ends in .png, not {out}")
    if out.resolve() == picture.resolve():
        raise HarnessError(f"{out} is the picture itself; choose another name for the sheet")
    drawn = sheet(picture.read_bytes(), picture.name, request)
    with whole_file(out) as file:
        drawn.save(file, format="PNG", optimize=True)


def sheet(data: bytes, name: str, request: Request) -> Image.Image:
    """A row for every corruption, and columns for the clean picture and every severity.

    Args:
        data: the encoded picture.
        name: names the picture for the random generators and in messages.

    Returns:
        RGB; a setting that was not asked for is left white.

    Raises:
        HarnessError: the picture cannot be decoded or corrupted.
    """
    conditions = request.conditions()
    rows = list(dict.fromkeys(condition.noise for condition in conditions))
    columns = ["", *sorted({condition.setting for condition in conditions})]
    font = ImageFont.load_default(FONT_SIZE)
    left = MARGIN + round(max(font.getlength(_readable(noise)) for noise in rows)) + LABEL_GAP
    width = left + len(columns) * (TILE + GAP) - GAP + MARGIN
    height = MARGIN + HEAD + len(rows) * (TILE + GAP) - GAP + MARGIN
    drawn = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(drawn)
    across = {setting: left + column * (TILE + GAP) for column, setting in enumerate(columns)}
    down = {noise: MARGIN + HEAD + row * (TILE + GAP) for row, noise in enumerate(rows)}
    for setting, x in across.items():
        text = f"Severity {setting}" if setting else "Clean"
        pen.text((x + TILE // 2, MARGIN + HEAD // 2), text, fill=INK, font=font, anchor="mm")
    for noise, y in down.items():
        pen.text((left - LABEL_GAP, y + TILE // 2), _readable(noise), fill=INK, font=font, anchor="rm")

    tree = compile_tree([request.pipeline, *(condition.pipeline for condition in conditions)])
    for prepared in tree.walk(data, name, request.seed):
        if prepared.error is not None:
            raise HarnessError(f"{name}: {prepared.error}")
        tile = Image.fromarray(np.asarray(prepared.tensor, np.uint8)).resize((TILE, TILE), Image.Resampling.BOX)
        if prepared.condition == 0:
            for y in down.values():
                drawn.paste(tile, (across[""], y))
        else:
            condition = conditions[prepared.condition - 1]
            drawn.paste(tile, (across[condition.setting], down[condition.noise]))
    return drawn


def _readable(noise: str) -> str:
    """A noise as people write it.

    >>> _readable("gaussian_noise"), _readable("jpeg_compression")
    ('Gaussian noise', 'JPEG compression')
    """
    return noise.replace("_", " ").capitalize().replace("Jpeg", "JPEG")
