"""Sources: one set of pictures is the same set in every form in which it may be stored, near or far."""

from __future__ import annotations

import functools
import io
import json
import pickle
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from engines.artifact import Artifact, TensorSpec
from harness.errors import HarnessError
from harness.progress import Progress
from harness.recipe import Recipe
from harness.samples import SampleSet, samples_from_data, unlabelled_from_data
from harness.session import execute
from harness.sources import SOURCES
from harness.sources.storage import files_from_pattern
from harness.speed import Speed
from harness.store import Store

CLASSES = ("ant", "bee", "cat")
LABELS = {f"{name}/{number}.jpg": index for index, name in enumerate(CLASSES) for number in range(4)}
CONTENTS = {name: f"the bytes of {name}".encode() for name in LABELS}


def model(classes: int = 3, names: tuple[str, ...] | None = CLASSES) -> Artifact:
    picture, scores = TensorSpec("x", "float32", (None, 3, 8, 8)), TensorSpec("y", "float32", (None, classes))
    return Artifact(Path("m.onnx"), "onnx", "0" * 64, picture, scores, "logits", False, classes=names)


def write_folder(root: Path, contents: Mapping[str, bytes] = CONTENTS) -> Path:
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def as_folder(root: Path) -> str:
    return str(write_folder(root / "pictures"))


def as_csv(root: Path) -> str:
    write_folder(root)
    (root / "list.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in LABELS.items()))
    return str(root / "list.csv")


def as_tar(root: Path) -> str:
    return str(write_tar(root / "all.tar", CONTENTS))


def as_shards(root: Path) -> str:
    """WebDataset: pictures and labels side by side, in shards."""
    for shard, which in enumerate((sorted(CONTENTS)[:5], sorted(CONTENTS)[5:])):
        members = {}
        for name in which:
            members |= {name: CONTENTS[name], name.replace(".jpg", ".cls"): str(LABELS[name]).encode()}
        write_tar(root / f"val-{shard:03}.tar", members)
    return str(root / "val-{000..001}.tar")


def as_parquet(root: Path) -> str:
    root.mkdir(parents=True, exist_ok=True)
    names = sorted(CONTENTS)
    for shard, which in enumerate((names[:5], names[5:])):
        table = pa.table(
            {
                "image": [{"bytes": CONTENTS[name], "path": name} for name in which],
                "label": pa.array([LABELS[name] for name in which], pa.int64()),
            }
        )
        pq.write_table(table, root / f"val-{shard}.parquet", row_group_size=3)
    return str(root / "val-*.parquet")


FORMS: dict[str, Callable[[Path], str]] = {
    "folder": as_folder,
    "csv": as_csv,
    "tar": as_tar,
    "tar-shards": as_shards,
    "parquet": as_parquet,
}


class Server(SimpleHTTPRequestHandler):
    """A web server of a folder that understands ranges of bytes, as object stores do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wish = self.headers.get("Range", "")
        path = Path(self.translate_path(self.path))
        if not wish.startswith("bytes=") or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = wish.removeprefix("bytes=").partition("-")
        piece = data[int(first) : int(last or len(data) - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of ``tmp_path``, on loopback."""
    serving = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(tmp_path)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    """The URL of what was put into fsspec's memory."""
    system = fsspec.filesystem("memory")
    yield "memory://set"
    system.rm("/set", recursive=True)


def in_memory(root: Path) -> None:
    system = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/set/{path.relative_to(root).as_posix()}", path.read_bytes())


def check_is_the_set(samples: SampleSet) -> None:
    assert {sample.id: sample.label for sample in samples.samples} == LABELS
    again = pickle.loads(pickle.dumps(samples.samples))  # as workers get them
    assert {sample.id: sample.read() for sample in again} == CONTENTS


def test_every_source_is_tried_here() -> None:
    assert {form.partition("-")[0] for form in FORMS} == set(SOURCES)


@pytest.mark.parametrize("form", FORMS)
def test_the_set_is_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    samples = samples_from_data(FORMS[form](tmp_path), "", model(), seed=3)
    check_is_the_set(samples)
    folder = samples_from_data(as_folder(tmp_path / "other"), "", model(), seed=3)
    assert [sample.id for sample in samples.samples] == [sample.id for sample in folder.samples]
    assert samples.fingerprint() == folder.fingerprint()


@pytest.mark.parametrize("form", FORMS)
def test_the_set_is_the_same_in_memory(form: str, tmp_path: Path, memory: str) -> None:
    local = FORMS[form](tmp_path)
    in_memory(tmp_path)
    check_is_the_set(samples_from_data(local.replace(str(tmp_path), memory), "", model(), seed=0))


@pytest.mark.parametrize("form", FORMS)
def test_the_set_is_the_same_behind_a_web_server(form: str, tmp_path: Path, server: str) -> None:
    local = FORMS[form](tmp_path)
    check_is_the_set(samples_from_data(local.replace(str(tmp_path), server), "", model(), seed=0))


def test_a_run_on_a_tar_has_the_rows_of_a_run_on_its_folder(small: Recipe, finished: Path, tmp_path: Path) -> None:
    root = Path(small.data)
    pictures = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}
    recipe = replace(small, data=str(write_tar(tmp_path / "all.tar", pictures)))
    execute(recipe, tmp_path / "run", Speed(workers=2, callers=1), Progress())
    ours, theirs = (
        [pq.read_table(part) for part in sorted(Store(folder).parts())] for folder in (tmp_path / "run", finished)
    )
    assert len(ours) == len(theirs) > 0
    assert all(one.equals(other) for one, other in zip(ours, theirs, strict=True))


def test_a_corrupted_picture_in_a_tar_is_a_row_with_an_error(small: Recipe, tmp_path: Path) -> None:
    root = Path(small.data)
    pictures = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}
    bad = sorted(pictures)[7]
    pictures[bad] = b"\xff\xd8" + bytes(500)
    recipe = replace(small, data=str(write_tar(tmp_path / "all.tar", pictures)), calibrate=small.data)
    recipe = replace(recipe, calibration_overlap=True)
    execute(recipe, tmp_path / "run", Speed(workers=1, callers=1), Progress())
    query = Store(tmp_path / "run").query
    assert query("select distinct sample from records where error is not null") == [(bad,)]
    assert query("select count(distinct sample) from records")[0][0] == len(pictures)


def test_flat_pictures_need_a_file_of_labels(tmp_path: Path) -> None:
    flat = {f"val_{number:03}.JPEG": bytes([number]) for number in range(4)}
    folder = str(write_folder(tmp_path / "val", flat))
    with pytest.raises(HarnessError, match=r"4 of 4 pictures have no label, the first is val_000.JPEG.*--labels"):
        samples_from_data(folder, "", model(), seed=0)
    assert len(unlabelled_from_data(folder, seed=0).samples) == 4


LABEL_FILES = {
    "one name per line": ("labels.txt", "cat\nant\nbee\nant\n"),
    "one number per line": ("labels.txt", "2\n0\n1\n0\n"),
    "as Caffe": ("val.txt", "val_001.JPEG 0\nval_000.JPEG 2\nval_003.JPEG 0\nval_002.JPEG 1\nval_004.JPEG 1\n"),
    "as Kaggle": ("LOC_val.csv", "ImageId,PredictionString\nval_001,ant\nval_000,cat\nval_003,ant\nval_002,bee\n"),
    "as a table": ("l.tsv", "label\tsize\tfile\nant\t3\tval_001.JPEG\ncat\t3\tval_000.JPEG\nant\t3\tval_003.JPEG\n"
                   "bee\t3\tval_002.JPEG\n"),
}  # fmt: skip


@pytest.mark.parametrize("form", LABEL_FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_labels_in_any_form(form: str, packed: bool, tmp_path: Path) -> None:
    flat = {f"val_{number:03}.JPEG": bytes([number]) for number in range(4)}
    data = str(write_tar(tmp_path / "val.tar", flat) if packed else write_folder(tmp_path / "val", flat))
    name, text = LABEL_FILES[form]
    (tmp_path / name).write_text(text)
    samples = samples_from_data(data, str(tmp_path / name), model(), seed=0).samples
    assert {sample.id[4:7]: sample.label for sample in samples} == {"000": 2, "001": 0, "002": 1, "003": 0}


WORDNET = ("n01440764", "n01443537", "n15075141")


def write_devkit(root: Path) -> Path:
    """The devkit's files with three classes, numbered in another order than their sorted WordNet ids."""
    synsets = [{"ILSVRC2012_ID": number, "WNID": WORDNET[place]} for number, place in ((1, 2), (2, 0), (3, 1))]
    synsets.append({"ILSVRC2012_ID": 1001, "WNID": "n00001740"})  # inner nodes of the tree follow
    root.mkdir(exist_ok=True)
    savemat(root / "meta.mat", {"synsets": synsets})
    path = root / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("1\n2\n3\n2\n")
    return path


def test_the_numbers_of_the_devkit_are_no_indices(tmp_path: Path) -> None:
    data = str(write_folder(tmp_path / "val", {f"ILSVRC2012_val_{number:08}.JPEG": b"x" for number in (1, 2, 3, 4)}))
    path = write_devkit(tmp_path / "devkit")
    samples = samples_from_data(data, str(path), model(1000, None), seed=0).samples
    assert [sample.label for sample in sorted(samples, key=lambda sample: sample.id)] == [999, 0, 1, 0]
    (path.parent / "meta.mat").unlink()
    with pytest.raises(HarnessError, match=r"meta.mat cannot be opened"):
        samples_from_data(data, str(path), model(1000, None), seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n3\n2\n", "has the label 3, but m.onnx has the outputs 0 to 2; it seems to count from 1"),
        ("0\n7\n0\n0\n", "has the label 7, but m.onnx has the outputs 0 to 2$"),
        ("0\nant\n0\n0\n", "labels some pictures by number"),
        ("dog\nant\nant\nant\n", "not among the classes that m.onnx declares, the first is 'dog'"),
        ("0\n1\n", "has 2 labels in the order of the pictures, but there are 4"),
        ("val_000.JPEG 1\n", "has no label for val_001.JPEG; its first name is val_000.JPEG"),
        ("val_000.JPEG 1\nval_001.JPEG\n", "entry 2: expected NAME LABEL"),
        ("", "is empty"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    flat = {f"val_{number:03}.JPEG": bytes([number]) for number in range(4)}
    data = str(write_folder(tmp_path / "val", flat))
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(HarnessError, match=message):
        samples_from_data(data, str(tmp_path / "labels.txt"), model(), seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.jpg,ant\n", "has no column 'path'"),
        ("path,size\na/1.jpg,3\n", "has no column 'label'"),
        ("path,label\na/1.jpg\n", "line 2: expected a path and a label, got 'a/1.jpg'"),
        ("path,label\na/1.jpg,0\na/1.jpg,0\n", "names a/1.jpg twice"),
    ],
)
def test_a_table_that_does_not_serve_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(HarnessError, match=message):
        samples_from_data(str(tmp_path / "list.csv"), "", model(), seed=0)


def test_a_shard_listed_twice_is_refused(tmp_path: Path) -> None:
    as_shards(tmp_path)
    with pytest.raises(HarnessError, match=r"val-000.tar twice"):
        samples_from_data(
            str(tmp_path / "val-{000..001,000}.tar").replace("{000..001,000}", "{000,001,000}"), "", model(), 0
        )
    (tmp_path / "val-002.tar").symlink_to(tmp_path / "val-001.tar")
    with pytest.raises(HarnessError, match=r"val-002.tar twice \(the first time as .*val-001.tar\)"):
        samples_from_data(str(tmp_path / "val-*.tar"), "", model(), 0)
    (tmp_path / "val-002.tar").unlink()
    shutil.copy(tmp_path / "val-000.tar", tmp_path / "val-002.tar")
    with pytest.raises(HarnessError, match=r"val-002.tar is a copy of .*val-000.tar"):
        samples_from_data(str(tmp_path / "val-{000..002}.tar"), "", model(), 0)


def test_names_that_shards_share_are_told_apart_by_the_shard(tmp_path: Path) -> None:
    for shard, label in (("a", 0), ("b", 1)):
        write_tar(tmp_path / f"{shard}.tar", {"0.jpg": shard.encode(), "0.json": json.dumps({"label": label}).encode()})
    samples = samples_from_data(str(tmp_path / "{a,b}.tar"), "", model(), 0).samples
    assert {sample.id: (sample.label, sample.read()) for sample in samples} == {
        "a.tar/0.jpg": (0, b"a"),
        "b.tar/0.jpg": (1, b"b"),
    }


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    path = Path(as_tar(tmp_path))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(HarnessError, match=r"all.tar is no whole, uncompressed tar"):
        samples_from_data(str(path), "", model(), 0)


def test_a_picture_that_is_gone_is_an_error_of_that_picture(tmp_path: Path) -> None:
    samples = samples_from_data(as_tar(tmp_path), "", model(), 0)
    last = max(samples.samples, key=lambda sample: sample.locator.order)
    (tmp_path / "all.tar").write_bytes((tmp_path / "all.tar").read_bytes()[: last.locator.order[1] + 3])
    with pytest.raises(OSError, match="ends behind 3 of"):
        last.read()
    assert list(samples.contents().values()).count("unreadable") == 1


def test_parquet_without_pictures_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.jpg"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(HarnessError, match=r"has the columns image: string, label: int64; expected image: struct"):
        samples_from_data(str(tmp_path / "a.parquet"), "", model(), 0)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(HarnessError, match=r"b.parquet is no whole Parquet file"):
        samples_from_data(str(tmp_path / "b.parquet"), "", model(), 0)


def test_parquet_rows_without_names_are_named_by_their_place_and_hidden_labels_are_none(tmp_path: Path) -> None:
    image = [{"bytes": b"1", "path": None}, {"bytes": None, "path": None}]
    pq.write_table(pa.table({"image": image, "label": pa.array([2, -1], pa.int64())}), tmp_path / "a.parquet")
    found = unlabelled_from_data(str(tmp_path / "a.parquet"), 0)
    assert {sample.id for sample in found.samples} == {"a.parquet/0/00000", "a.parquet/0/00001"}
    assert sorted(found.contents().values())[1] == "unreadable"
    with pytest.raises(HarnessError, match=r"1 of 2 pictures have no label, the first is a.parquet/0/00001"):
        samples_from_data(str(tmp_path / "a.parquet"), "", model(), 0)


def test_parquet_of_a_subset_says_its_classes_by_wordnet_id(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": b"1", "path": "1.jpg"}], "label": pa.array([1], pa.int64())})
    described = {"info": {"features": {"label": {"names": ["n01440764", "n15075141"]}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), tmp_path / "a.parquet")
    (sample,) = samples_from_data(str(tmp_path / "a.parquet"), "", model(1000, None), 0).samples
    assert sample.label == 999


def test_patterns_are_those_of_a_shell(tmp_path: Path) -> None:
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b-08.tar"):
        (tmp_path / name).touch()

    def names(pattern: str) -> list[str]:
        return [Path(path).name for path in files_from_pattern(str(tmp_path / pattern))]

    assert names("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert names("{a,b}-08.tar") == ["a-08.tar", "b-08.tar"]
    assert names("?-0[89].tar") == ["a-08.tar", "a-09.tar", "b-08.tar"]
    with pytest.raises(HarnessError, match=r"a-11.tar cannot be opened: No such file"):
        names("a-{08..11}.tar")
    with pytest.raises(HarnessError, match="no file fits"):
        names("c-*.tar")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere://a/b", "Protocol not known: nowhere"),
        ("memory://missing", "nothing below memory://missing|cannot be listed"),
        ("memory://missing.tar", "memory://missing.tar cannot be opened"),
        ("memory://missing-*.tar", "no file fits"),
        ("http://127.0.0.1:9/a.tar", "a.tar cannot be opened"),
    ],
)
def test_urls_that_do_not_serve_are_refused(data: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        samples_from_data(data, "", model(), 0)
