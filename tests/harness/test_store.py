"""The store: whole files only, one run per folder, timing apart from rows."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.record import Record
from harness.slices import pictures_per_part
from harness.store import SCHEMA, Store

NOTHING = [st.none()] * 8
RECORDS = st.lists(
    st.one_of(
        st.builds(
            Record,
            st.just("c"),
            st.text(max_size=9),
            st.integers(0, 999),
            st.text(max_size=9),
            *NOTHING,
            error=st.text(),
        ),
        st.builds(
            Record,
            st.just("c"),
            st.text(max_size=9),
            st.integers(0, 999),
            st.text(max_size=9),
            st.integers(0, 999),
            st.booleans(),
            st.booleans(),
            st.floats(-99, 99, width=32),
            st.floats(-99, 0, width=32),
            st.floats(0, 1, width=32),
            st.none() | st.floats(0, 9, width=32),
            st.none() | st.floats(0, 9, width=32),
            st.none(),
        ),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(records=RECORDS)
def test_records_read_back_as_they_were_written(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    store.claim({})
    store.write_part(0, "a", records, {"wall_seconds": 1.0})
    store.write_part(0, "b", [])
    assert [Record(**row) for row in pq.read_table(store.parts()[0]).to_pylist()] == records
    assert pq.read_table(store.parts()[1]).num_rows == 0
    assert store.timings() == [{"wall_seconds": 1.0}]


def test_a_part_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    store.claim({})
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(HarnessError, match="the disk is full; what was measured before is kept"):
        store.write_part(0, "a", [])
    assert list((tmp_path / "parts").iterdir()) == []


def test_the_columns_are_the_fields_of_a_record() -> None:
    assert SCHEMA.names == list(Record._fields)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"is not a run: it has no run\.json"):
        Store(tmp_path).read_json("run.json")


def test_a_run_without_results_says_how_to_go_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.claim({})
    with pytest.raises(HarnessError, match="holds no results yet; qharness run continues it"):
        store.query("select 1")


def test_a_difference_is_named_by_its_path_and_both_values(tmp_path: Path) -> None:
    Store(tmp_path).claim({"a": {"b": [1, 2]}, "same": 1})
    Store(tmp_path).claim({"a": {"b": [1, 2]}, "same": 1})
    with pytest.raises(HarnessError, match=r"differs in a\.b \(there \[1, 2\], now \[1, 3\]\)"):
        Store(tmp_path).claim({"a": {"b": [1, 3]}, "same": 1})
    with pytest.raises(HarnessError, match=r"differs in new \(there null, now 5\)"):
        Store(tmp_path).claim({"a": {"b": [1, 2]}, "same": 1, "new": 5})


def test_two_processes_may_not_work_in_one_folder(tmp_path: Path) -> None:
    second = Store(tmp_path).locked()
    with Store(tmp_path).locked(), pytest.raises(HarnessError, match="another qharness is at work"):
        second.__enter__()
    with Store(tmp_path).locked():
        assert (tmp_path / ".lock").exists()


def test_of_many_that_make_a_folder_at_once_exactly_one_works_in_it(tmp_path: Path) -> None:
    many = 6
    ready, tried = threading.Barrier(many), threading.Barrier(many)

    def refusal(folder: Path) -> str:
        store = Store(folder)
        ready.wait(30)
        try:
            store.create()
            with store.locked():
                store.write_text(store.recipe_path.name, "")
                tried.wait(30)
        except HarnessError as error:
            tried.wait(30)
            return str(error).partition(" in ")[0]
        return ""

    with ThreadPoolExecutor(many) as pool:
        for number in range(50):
            said = sorted(pool.map(refusal, [tmp_path / str(number) / "run"] * many))
            assert said == ["", *["another qharness is at work"] * (many - 1)]


@pytest.mark.parametrize(
    ("pictures", "conditions", "size"),
    [(1, 1, 4), (300, 20, 4), (5_000, 20, 20), (50_000, 20, 64), (50_000, 110, 18), (50_000, 9_999, 4)],
)
def test_parts_are_small_for_few_pictures_and_few_for_many(pictures: int, conditions: int, size: int) -> None:
    assert pictures_per_part(pictures, conditions) == size
