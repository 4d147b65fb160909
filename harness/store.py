"""Store: the folder of a run. It may be killed at any moment and continued by the same command.

::

    RUN/recipe.toml        what was asked for; `qharness run RUN/recipe.toml` asks for it again
    RUN/run.json           what the results depend on: plan, cells, hashes, versions
    RUN/artifacts/         quantised files, calibration
    RUN/prepared.json      facts of the contenders, certificates, findings
    RUN/stopping.json      what may end the run early, with the rules of a gate, and when it is looked at
    RUN/parts/*.parquet    records; each part is written whole, then renamed into place
    RUN/report.*           rebuilt from the above at any time

A part holds all records of a fixed slice of the pictures on one engine, so a part that exists is complete, and which
rows it holds does not depend on how the run was interrupted, nor on which engines went through the pictures together.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.record import Record

SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("sample", pa.string()),
        ("label", pa.int32()),
        ("source", pa.string()),
        ("prediction", pa.int32()),
        ("correct", pa.bool_()),
        ("top5", pa.bool_()),
        ("margin", pa.float32()),
        ("log_probability", pa.float32()),
        ("confidence", pa.float32()),
        ("from_fp32", pa.float32()),
        ("from_simulated", pa.float32()),
        ("error", pa.string()),
    ]
)
TIMING = b"qharness.timing"
STOPPING = "stopping.json"
FULL = "the disk is full; what was measured before is kept. Free some space and repeat the command"


def is_full(error: OSError) -> bool:
    """Whether an error means that no space is left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Store:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def recipe_path(self) -> Path:
        """The recipe that this run stands for."""
        return self.folder / "recipe.toml"

    @property
    def artifacts(self) -> Path:
        """Where quantised files and calibrations lie."""
        return self.folder / "artifacts"

    def create(self) -> None:
        """Make the folder, or see that it may be used.

        Raises:
            HarnessError: it holds something that is not a run, or is no folder.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise HarnessError(f"{self.folder} is a file; choose another folder with -o")
        if self.folder.exists():
            strangers = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            # In this order: another process may be making the same folder a run.
            if strangers and not self.recipe_path.exists():
                raise HarnessError(f"{self.folder} is not empty and not a run; choose another folder with -o")
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working in this folder. The lock dies with the process, however it dies.

        Raises:
            HarnessError: another process is at work here.
        """
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HarnessError(
                    f"another qharness is at work in {self.folder}; wait for it, or choose another folder with -o"
                ) from error
            yield

    @property
    def claimed(self) -> bool:
        """Whether a run got as far as being sure of what it measures."""
        return self.has("run.json")

    def claim(self, identity: dict[str, Any]) -> None:
        """Begin a run here, or continue the one that is here if it is the same.

        Raises:
            HarnessError: the folder holds another run; the message names the first difference.
        """
        if self.claimed:
            difference = first_difference(self.read_json("run.json")["identity"], identity)
            if difference:
                raise HarnessError(
                    f"{self.folder} holds a run that differs in {difference}; "
                    f"choose another folder with -o, or delete this one"
                )
            return
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        self.write_json("run.json", {"identity": identity})

    def has(self, name: str) -> bool:
        """Whether the run has such a file."""
        return (self.folder / name).exists()

    def remove(self, name: str) -> None:
        """Remove a file of the run, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            HarnessError: it is not there, so this folder is not a run that got so far.
        """
        file = self.folder / name
        if not file.exists():
            raise HarnessError(f"{self.folder} is not a run: it has no {name}; make one with qharness run")
        content: dict[str, Any] = json.loads(file.read_text())
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the run whole."""
        self._write_whole(name, json.dumps(content, indent=1).encode())

    def write_text(self, name: str, content: str) -> Path:
        """Write a text file of the run whole; returns its path."""
        self._write_whole(name, content.encode())
        return self.folder / name

    def has_part(self, index: int, engine: str) -> bool:
        """Whether the part is there, whole or not."""
        return (self.folder / "parts" / part_name(index, engine)).exists()

    def damaged_parts(self) -> list[Path]:
        """Parts of which a byte is not as it was written. Reads all of them."""
        return [part for part in self.parts() if not _intact(part)]

    def write_part(
        self, index: int, engine: str, records: Sequence[Record], timing: dict[str, Any] | None = None
    ) -> None:
        """Store a part. Timing travels as metadata: it is no row, and differs between equal runs.

        Args:
            timing: of everything since the part before; ``None`` where another engine's part tells it.

        Raises:
            HarnessError: the disk is full. Every part before this one is kept.
        """
        values = zip(*records, strict=True) if records else [()] * len(SCHEMA)
        columns = [pa.array(each, field.type) for each, field in zip(values, SCHEMA, strict=True)]
        schema = SCHEMA if timing is None else SCHEMA.with_metadata({TIMING: json.dumps(timing).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd", write_page_checksum=True)
        self._write_whole(f"parts/{part_name(index, engine)}", sink.getvalue().to_pybytes())

    def parts(self) -> list[Path]:
        """The complete parts, in order."""
        return sorted((self.folder / "parts").glob("[0-9]*.parquet"))

    def timings(self) -> list[dict[str, Any]]:
        """What `write_part` was told about the time, in the order of the parts."""
        told = [(pq.read_schema(part).metadata or {}).get(TIMING) for part in self.parts()]
        return [json.loads(each) for each in told if each is not None]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run SQL over the table ``records``.

        Raises:
            HarnessError: nothing has been measured yet.
        """
        with self._records() as connection:
            return connection.sql(sql).fetchall()

    def columns(self, sql: str) -> dict[str, npt.NDArray[Any]]:
        """As `query`, as one NumPy array per column."""
        with self._records() as connection:
            return connection.sql(sql).fetchnumpy()

    @contextmanager
    def _records(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the table; what it cannot read is a damaged part."""
        parts = self.parts()
        if not parts:
            raise HarnessError(f"{self.folder} holds no results yet; qharness run continues it")
        with duckdb.connect() as connection:
            try:
                connection.read_parquet([str(part) for part in parts]).create_view("records")
                yield connection
            except duckdb.Error as error:
                damaged = self.damaged_parts()
                if not damaged:
                    raise
                raise HarnessError(
                    f"{damaged[0]} is damaged; qharness run on this run measures its pictures again"
                ) from error

    def _write_whole(self, name: str, content: bytes) -> None:
        path = self.folder / name
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            if is_full(error):
                raise HarnessError(f"{FULL} (writing {path})") from error
            raise


def part_name(index: int, engine: str) -> str:
    """The file of a part. Names sort by index."""
    return f"{index:06d}-{engine}.parquet"


def _intact(part: Path) -> bool:
    """Whether a Parquet file can be read, and the checksums of its pages are right."""
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            file.read()
    except (OSError, pa.ArrowException):
        return False
    return True


def first_difference(old: Any, new: Any, where: str = "") -> str:
    """The path of the first difference between two JSON values, with both values; "" when they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
            if found:
                return found
        return ""
    if json.dumps(old) == json.dumps(new):
        return ""
    return f"{where} (there {_short(old)}, now {_short(new)})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
