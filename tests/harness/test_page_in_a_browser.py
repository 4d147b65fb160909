"""The page in a real browser, from disk: it renders, it shows its numbers, it asks for nothing."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.report.build import Report
from harness.report.page import page

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def chromium_says(chromium: str, profile: Path, *arguments: str) -> str:
    done = subprocess.run(
        [chromium, *FLAGS, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def rendered(finished: Path, chromium: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's document as the browser has it after loading."""
    profile = tmp_path_factory.mktemp("profile")
    return chromium_says(chromium, profile, "--dump-dom", (finished / "report.html").as_uri())


def test_the_browser_shows_the_numbers_of_the_json(finished: Path, rendered: str) -> None:
    report = json.loads((finished / "report.json").read_text())
    for row in report["rows"]:
        for estimate in row["accuracy"].values():
            assert f"{100 * estimate['value']:.1f} %" in rendered
    assert "100.00 % of the work" in rendered


def test_every_noise_has_its_plot(rendered: str) -> None:
    for noise in ("gaussian_noise", "brightness", "resize"):
        assert f'aria-label="{noise}"' in rendered


def test_tables_and_panels_of_a_second_engine_fit_a_window_of_1200_pixels(
    two_engines: Report, chromium: str, tmp_path: Path
) -> None:
    told = (
        "<script>document.title = [...document.querySelectorAll('.scroll, .forests')].map("
        "each => each.scrollWidth - each.clientWidth) + ';' + [...document.querySelectorAll('svg.forest')].map("
        "each => Math.round(each.getBoundingClientRect().width / each.viewBox.baseVal.width * 100))</script>"
    )
    probe = tmp_path / "page.html"
    probe.write_text(page(two_engines).replace("</body>", f"{told}</body>"))
    dumped = chromium_says(chromium, tmp_path / "profile", "--window-size=1200,900", "--dump-dom", probe.as_uri())
    found = re.search(r"<title>([\d,]+);([\d,]+)</title>", dumped)
    assert found is not None
    surplus, scales = ([int(each) for each in listed.split(",")] for listed in found.groups())
    assert max(surplus) == 0, "a table has to be scrolled sideways"
    assert scales == [100] * 5  # quantisation and kernel of both engines, and the engine


@pytest.mark.parametrize("width", [1150, 420])
def test_the_page_is_painted(finished: Path, chromium: str, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    chromium_says(
        chromium,
        tmp_path / "profile",
        f"--window-size={width},1600",
        f"--screenshot={picture}",
        (finished / "report.html").as_uri(),
    )
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    paper = (pixels == pixels[2, 2]).all(axis=2)
    assert 0.5 < paper.mean() < 0.99, "an empty or a broken page"
    blue, orange = np.array([0, 114, 178]), np.array([213, 94, 0])
    for ink in (blue, orange):
        assert (np.abs(pixels - ink).max(axis=2) < 30).sum() > 50, "the plots' lines are missing"
