"""A corrupted folder holds what a run would feed, however it was made; a sheet shows all of it at a glance."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harness import cli
from harness.corrupt import Outcome, Request, Work, corrupt_pictures, stored_name
from harness.demo.embedded import demo_recipe
from harness.errors import HarnessError
from harness.manifest import MANIFEST
from harness.plan import plan
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.samples import Sample
from harness.sheet import GAP, HEAD, MARGIN, TILE, sheet
from harness.sources.storage import Extent
from harness.speed import Speed
from harness.store import Store
from noise.corrupt import corrupt
from noise.corruptions import overlays
from noise.presets import IMAGENET_MEAN, IMAGENET_STD

ROOT = Path(__file__).parents[2]
REQUEST = Request(("gaussian_noise", "brightness:2", "contrast"), (1, 3), seed=5, size=32)
PLACES = ["gaussian_noise/1", "gaussian_noise/3", "brightness/2", "contrast/1", "contrast/3"]
NAMES = ("cat/a.jpg", "cat/deeper/b.JPEG", "dog/c.png", "dog/d.bmp")


def picture(path: Path, seed: int, height: int = 40, width: int = 52) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(levels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of several formats, and what is no picture of a class."""
    for seed, name in enumerate(NAMES):
        picture(tmp_path / "pictures" / name, seed)
    (tmp_path / "pictures" / "cat" / "notes.txt").write_text("no picture")
    picture(tmp_path / "pictures" / "outside.png", 9)
    picture(tmp_path / "pictures" / ".thumbnails" / "hidden.png", 9)
    return tmp_path / "pictures"


def make(folder: Path, out: Path, form: str = "png", request: Request = REQUEST, workers: int = 2) -> Outcome:
    return corrupt_pictures(str(folder), out, request, form, Speed(workers), Progress())


def files_of(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def lines_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def expected_pixels(path: Path, name: str) -> dict[str, npt.NDArray[np.uint8]]:
    """What the tree of a run feeds for every place."""
    tree = compile_tree([condition.pipeline for condition in REQUEST.conditions()])
    walked = {each.condition: each.tensor for each in tree.walk(path.read_bytes(), name, REQUEST.seed)}
    return {place: np.asarray(walked[index], np.uint8) for index, place in enumerate(PLACES)}


def test_a_png_tree_has_the_layout_of_imagenet_c_and_the_pixels_of_a_run(folder: Path, tmp_path: Path) -> None:
    outcome = make(folder, tmp_path / "out")
    stored = {name: name if name.endswith(".png") else f"{name}.png" for name in NAMES}
    files = files_of(tmp_path / "out")
    assert set(files) == {f"{place}/{name}" for place in PLACES for name in stored.values()} | {MANIFEST, ".lock"}
    for name in NAMES:
        for place, expected in expected_pixels(folder / name, name).items():
            assert expected.shape == (32, 32, 3)
            np.testing.assert_array_equal(pixels(files[f"{place}/{stored[name]}"]), expected)
    assert (outcome.pictures, outcome.conditions, outcome.changed, outcome.failures) == (4, 5, 4, 0)


def test_a_run_feeds_the_same_pixels_before_it_normalises(tmp_path: Path) -> None:
    made = plan(replace(demo_recipe(), preprocess="imagenet", noise=("gaussian_noise:3",)))
    request = Request(("gaussian_noise:3",), size=made.artifact.size[0])
    path = picture(tmp_path / "pictures" / "cat" / "a.png", 0)
    make(tmp_path / "pictures", tmp_path / "out", request=request)
    levels = pixels((tmp_path / "out" / "gaussian_noise" / "3" / "cat" / "a.png").read_bytes())
    fed = next(compile_tree([made.conditions[0].pipeline]).walk(path.read_bytes(), "cat/a.png", 0)).tensor
    assert fed is not None
    mean, deviation = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    np.testing.assert_allclose(fed.transpose(1, 2, 0) * deviation + mean, levels / 255, atol=1e-5)


def test_a_picture_of_the_right_size_is_only_corrupted(tmp_path: Path) -> None:
    path = picture(tmp_path / "pictures" / "cat" / "a.png", 3, 32, 32)
    make(tmp_path / "pictures", tmp_path / "out")
    stored = (tmp_path / "out" / "gaussian_noise" / "3" / "cat" / "a.png").read_bytes()
    expected = corrupt(pixels(path.read_bytes()), "gaussian_noise", 3, seed=5, sample_id="cat/a.png")
    np.testing.assert_array_equal(pixels(stored), expected)


def test_a_jpeg_tree_is_stored_as_the_published_one_was(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out", "jpeg")
    stored = {"cat/a.jpg": "cat/a.jpg", "cat/deeper/b.JPEG": "cat/deeper/b.JPEG", "dog/c.png": "dog/c.png.JPEG"}
    for name, stored_as in stored.items():
        for place, expected in expected_pixels(folder / name, name).items():
            content = (tmp_path / "out" / place / stored_as).read_bytes()
            coded = io.BytesIO()
            Image.fromarray(expected).save(coded, format="JPEG", quality=85)
            np.testing.assert_array_equal(pixels(content), pixels(coded.getvalue()))
            assert Sample(name, Extent(str(folder / name)), 0).read(str(tmp_path / "out" / place)) == content


def test_the_manifest_says_what_the_files_are(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out", "jpeg")
    header, *lines = lines_of(tmp_path / "out")
    assert (header["manifest"], header["seed"], header["size"]) == (1, 5, 32)
    assert header["noise"]["brightness:2"]["stage"] == "sensor"  # type: ignore[index]
    assert "code" in header["environment"]  # type: ignore[operator]
    assert [line["picture"] for line in lines] == sorted(NAMES)
    files = files_of(tmp_path / "out")
    for line in lines:
        assert line["source_sha256"] == hashlib.sha256((folder / str(line["picture"])).read_bytes()).hexdigest()
        assert line["files"] == {
            f"{place}/{stored_name(str(line['picture']), 'jpeg')}": hashlib.sha256(
                files[f"{place}/{stored_name(str(line['picture']), 'jpeg')}"]
            ).hexdigest()
            for place in PLACES
        }


def test_a_name_that_is_no_utf8_is_escaped_as_in_a_run(folder: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder / "cat") + b"/caf\xe9.png")).write_bytes(b"")
    make(folder, tmp_path / "escaped")
    assert r"cat/caf\\xe9.png" in (tmp_path / "escaped" / MANIFEST).read_text()


def test_a_picture_from_outside_has_no_place(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text("path,label\n../a.png,0\n")
    with pytest.raises(HarnessError, match=r"\.\./a.png is named by a path outside"):
        corrupt_pictures(str(tmp_path / "lists" / "list.csv"), tmp_path / "out", REQUEST, "png", Speed(), Progress())


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_neither_workers_nor_order_change_a_byte(folder: Path, tmp_path: Path, form: str) -> None:
    make(folder, tmp_path / "one", form, workers=1)
    make(folder, tmp_path / "three", form, workers=3)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")
    turned = replace(REQUEST, noise=REQUEST.noise[::-1], severities=(3, 1))
    assert make(folder, tmp_path / "one", form, turned).changed == 0


def test_what_is_there_is_not_drawn_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(folder, out)
    before = files_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert make(folder, out).changed == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    (out / "contrast" / "3" / "cat" / "a.jpg.png").unlink()
    make(folder, out)
    assert files_of(out) == before


def test_a_changed_and_a_new_picture_are_drawn_and_the_manifest_stays_in_order(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    picture(folder / "cat" / "a.jpg", 77)
    picture(folder / "ant" / "new.png", 78)
    assert make(folder, tmp_path / "out").changed == 2
    make(folder, tmp_path / "fresh")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("torn", [b'{"picture": "dog/d.bmp", "fi', b"\0\0\0\0\n", b'"text"\n'])
def test_a_torn_last_line_is_dropped_and_its_picture_drawn_again(folder: Path, tmp_path: Path, torn: bytes) -> None:
    out = tmp_path / "out"
    make(folder, out)
    before = files_of(out)
    whole = (out / MANIFEST).read_bytes().splitlines(keepends=True)
    (out / MANIFEST).write_bytes(b"".join(whole[:-1]) + torn)
    assert make(folder, out).changed == 1
    assert files_of(out) == before


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "killed"
    for index in range(40):
        picture(folder / f"class{index % 4}" / f"{index}.png", index)
    command = [sys.executable, "-m", "harness.cli", "corrupt", str(folder), "--noise", "gaussian_noise,fog,snow"]
    command += ["--size", "48", "--workers", "2", "-o"]
    chance = random.Random(0)
    kills = 0
    for _ in range(2):
        process = subprocess.Popen([*command, str(out)], cwd=ROOT, stdout=subprocess.DEVNULL)
        known = len(lines_of(out)) if (out / MANIFEST).exists() else 0
        while process.poll() is None and (not (out / MANIFEST).exists() or _line_count(out) <= known):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills > 0
    assert 1 < _line_count(out) < 41, "it was to be killed in the middle"
    done = subprocess.run([*command, str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    request = Request(("gaussian_noise", "fog", "snow"), size=48)
    make(folder, tmp_path / "whole", "jpeg", request)
    assert files_of(out) == files_of(tmp_path / "whole")


def _line_count(out: Path) -> int:
    return (out / MANIFEST).read_bytes().count(b"\n")


def test_ctrl_c_keeps_what_is_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Work.draw

    def interrupted(self: Work, name: str, source: Path, known: dict[str, object] | None) -> dict[str, object]:
        if name.startswith("dog"):
            raise KeyboardInterrupt
        return draw(self, name, source, known)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Work, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(folder, out)
    assert [line["picture"] for line in lines_of(out)[1:]] == ["cat/a.jpg", "cat/deeper/b.JPEG"]
    assert make(folder, out).changed == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, r"differ in seed \(there 5, now 6\); choose another folder with -o"),
        ({"size": 48}, r"differ in size \(there 32, now 48\)"),
        ({"severities": (1,)}, r"differ in noise\.gaussian_noise:3\.stage \(there \"sensor\", now nothing\)"),
    ],
)
def test_a_folder_that_was_made_otherwise_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    make(folder, tmp_path / "out")
    with pytest.raises(HarnessError, match=message):
        make(folder, tmp_path / "out", request=replace(REQUEST, **change))  # type: ignore[arg-type]


def test_another_format_or_another_program_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, tmp_path / "out")
    with pytest.raises(HarnessError, match=r"differ in format\.format \(there \"PNG\", now \"JPEG\"\)"):
        make(folder, tmp_path / "out", "jpeg")
    monkeypatch.setattr("harness.corrupt.environment", lambda: {"code": "other"})
    with pytest.raises(HarnessError, match=r"differ in environment\.code"):
        make(folder, tmp_path / "out")


def test_a_second_process_in_the_same_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Store(tmp_path / "out").locked(), pytest.raises(HarnessError, match="another qharness is at work"):
        make(folder, tmp_path / "out")


def test_a_full_disk_says_so_and_leaves_no_half_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: Path, target: Path) -> None:
        if "contrast" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.replace(self, target)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", no_space)
        with pytest.raises(HarnessError, match="the disk is full"):
            make(folder, out)
    assert not list(out.rglob("*.unfinished"))
    make(folder, out)
    make(folder, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")


def test_broken_pictures_are_counted_and_leave_no_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["corrupt", str(folder), "-o", str(out), "--noise", "contrast", "--severity", "2", "--size", "32"]
    assert cli.main(arguments) == 0
    assert f"4 pictures x 1 conditions in {out}\nManifest: {out / MANIFEST}\n" == capsys.readouterr().out
    (folder / "cat" / "a.jpg").write_text("this is no picture")
    (folder / "dog" / "c.png").write_bytes((folder / "dog" / "c.png").read_bytes()[:500])
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 pictures x 1 conditions" in printed
    assert "2 of 4 pictures failed, the first is cat/a.jpg: decode.pillow: NoiseError: not a picture" in printed
    assert "Nothing was left" not in printed
    assert len(list(out.rglob("contrast/2/*/*"))) == 2
    assert lines_of(out)[1].keys() == {"picture", "error"}
    before = (out / MANIFEST).read_bytes()
    assert cli.main(arguments) == 0
    assert "Nothing was left to draw: all was there already." in capsys.readouterr().out
    assert (out / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{data}",), "say what to draw: either -o OUT"),
        (("{data}", "-o", "{out}", "--sheet", "s.png"), "say what to draw: either -o OUT"),
        (("nowhere", "-o", "{out}"), "there is no data folder nowhere"),
        (("{picture}", "-o", "{out}"), "a.jpg is a file; expected a folder"),
        (("{empty}", "-o", "{out}"), "holds no pictures; expected empty/CLASS/PICTURE"),
        (("{data}", "-o", "{data}"), "whose pictures are to be read; choose another folder"),
        (("{data}", "-o", "{data}/cat/out"), "whose pictures are to be read; choose another folder"),
        (("{data}", "-o", "{file}"), "README.txt is a file; choose another folder"),
        (("{data}", "-o", "{stranger}"), "is not empty and has no manifest.jsonl; choose another folder"),
        (("{data}", "-o", "{foreign}"), "manifest.jsonl is no manifest of this qharness"),
        (("{data}", "-o", "{out}", "--noise", "gausian_noise"), "did you mean 'gaussian_noise'?"),
        (("{data}", "-o", "{out}", "--noise", "resize"), "'resize' is no corruption; choose from gaussian_noise, "),
        (("{data}", "-o", "{out}", "--noise", "clean"), "'clean' is no corruption"),
        (("{data}", "-o", "{out}", "--noise", "fog:6"), "no setting of 'fog' '6'"),
        (("{data}", "-o", "{out}", "--noise", ","), "--noise needs at least one name"),
        (("{data}", "-o", "{out}", "--severity", "6"), "1 to 5; got '6'"),
        (("{data}", "-o", "{out}", "--severity", "0"), "1 to 5; got '0'"),
        (("{data}", "-o", "{out}", "--severity", "-1"), "1 to 5; got '-1'"),
        (("{data}", "-o", "{out}", "--severity", "1,mild"), "1 to 5; got 'mild'"),
        (("{data}", "-o", "{out}", "--severity", ""), "1 to 5; got ''"),
        (("{data}", "-o", "{out}", "--size", "31"), "size must be at least 32 pixels"),
        (("{data}", "-o", "{out}", "--seed", "-1"), "seed must not be negative; got -1"),
        (("{data}", "-o", "{out}", "--workers", "-1"), "workers must be 0 or more"),
        (("{data}", "-o", "{out}", "--frost-overlays", "{empty}"), "frost needs the overlays"),
        (("{data}", "--sheet", "{out}.png"), "is a folder; --sheet takes one picture"),
        (("nowhere.png", "--sheet", "{out}.png"), "there is no picture nowhere.png"),
        (("{picture}", "--sheet", "{out}.jpg"), "name a file that ends in .png"),
        (("{broken}", "--sheet", "{out}.png"), "broken.png: decode.pillow: NoiseError: not a picture"),
        (("{broken}", "--sheet", "{broken}"), "is the picture itself; choose another name"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    places = {
        "data": tmp_path / "data",
        "picture": picture(tmp_path / "data" / "cat" / "a.jpg", 0),
        "empty": tmp_path / "empty",
        "stranger": tmp_path / "stranger",
        "foreign": tmp_path / "foreign",
        "broken": tmp_path / "broken.png",
        "file": tmp_path / "README.txt",
        "out": tmp_path / "out",
    }
    for name in ("empty", "stranger", "foreign"):
        places[name].mkdir()
    (tmp_path / "stranger" / "letter.txt").write_text("mine")
    (tmp_path / "foreign" / MANIFEST).write_text('{"of": "something else"}\n')
    places["file"].write_text("a file")
    places["broken"].write_text("this is no picture")
    few = () if "--noise" in arguments else ("--noise", "contrast")
    code = cli.main(["corrupt", *(each.format(**places) for each in arguments), *few])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not places["out"].exists()


def test_two_pictures_for_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    picture(folder / "dog" / "d.bmp.JPEG", 8)
    with pytest.raises(HarnessError, match=r"d\.bmp and dog/d\.bmp\.JPEG would both be stored as dog/d\.bmp\.JPEG"):
        make(folder, tmp_path / "out", "jpeg")


def test_without_names_every_corruption_is_drawn_and_what_lacks_files_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path / "data" / "cat" / "a.jpg", 0)
    monkeypatch.setattr("noise.corruptions.overlays.find_spec", lambda name: None)
    monkeypatch.setattr("noise.corruptions.overlays._folders", [])
    monkeypatch.setattr("noise.corruptions.frost.published", overlays.published.__wrapped__)
    assert cli.main(["corrupt", str(path.parents[1]), "-o", str(tmp_path / "out"), "--severity", "1"]) == 0
    assert "Left out: frost. frost needs ImageNet-C's overlays" in capsys.readouterr().out
    drawn = {place.name for place in (tmp_path / "out").iterdir() if place.is_dir()}
    assert {"gaussian_noise", "procedural_frost", "saturate"} < drawn
    assert not {"frost", "clean", "resize"} & drawn


def test_a_sheet_has_a_row_for_every_corruption_and_a_column_for_every_severity(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 1)
    out = tmp_path / "sheet.png"
    names = ("gaussian_noise", "jpeg_compression", "pixelate:5")
    assert cli.main(["corrupt", str(path), "--sheet", str(out), "--noise", ",".join(names), "--size", "48"]) == 0
    with Image.open(out) as image:
        drawn = np.asarray(image)
    assert drawn.shape[0] == 2 * MARGIN + HEAD + 3 * TILE + 2 * GAP
    left = drawn.shape[1] - MARGIN - 6 * TILE - 5 * GAP
    assert left > MARGIN
    assert (drawn[:MARGIN] == 255).all()

    def tile(row: int, column: int) -> npt.NDArray[np.uint8]:
        top, start = MARGIN + HEAD + row * (TILE + GAP), left + column * (TILE + GAP)
        return drawn[top : top + TILE, start : start + TILE]

    np.testing.assert_array_equal(tile(0, 0), tile(1, 0))
    assert len({tile(row, column).tobytes() for row in (0, 1) for column in range(6)}) == 11
    assert all((tile(2, column) == 255).all() for column in range(1, 5))
    assert not (tile(2, 5) == 255).all()


def test_a_sheet_is_the_same_every_time_and_another_with_another_seed(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 1).read_bytes()
    request = Request(("gaussian_noise",), (1,), size=32)
    first = sheet(data, "a.png", request).tobytes()
    assert sheet(data, "a.png", request).tobytes() == first
    assert sheet(data, "a.png", replace(request, seed=1)).tobytes() != first


def test_a_file_that_was_changed_or_removed_is_drawn_again_and_counted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(folder, out)
    before = files_of(out)
    assert make(folder, out).changed == 0
    first, second, *_ = sorted(out.rglob("*.png"))
    first.write_bytes(b"x")
    second.unlink()
    outcome = make(folder, out)
    assert 1 <= outcome.changed <= 2
    assert files_of(out) == before
