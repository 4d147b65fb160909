"""Cluster: the parts of a run as tasks of Ray, measured by actors that each hold all engines open.

The driver plans, prepares and reports as ever. An actor takes a slice of the pictures and writes its part into the
run's folder, which every node must see at the same path, as well as the model and the pictures. Which rows a part
holds does not depend on who measured it, so a run may be begun on a cluster and ended on one machine.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from engines import ENGINES
from harness.environment import environment
from harness.errors import HarnessError
from harness.lanes import Lane, settle_process, take_turns
from harness.line import Line, lines_from_contenders
from harness.meter import Meter
from harness.plan import Plan
from harness.prepare import Contender
from harness.progress import Advance, Progress
from harness.run import missing_slices, owned_slices
from harness.slices import Slice
from harness.speed import Speed
from harness.store import Store, first_difference

_ray: Any = ray  # most of its functions are untyped

ATTEMPTS = 3  # of a slice whose actor is lost
GPU_EXTRAS = ("gpu", "tensorrt")
CONNECT_SECONDS = 10.0
ASK_SECONDS = 0.5  # between questions to an actor that is lost
PATIENCE_SECONDS = 30.0  # without any actor
IN_FLIGHT = 2  # slices per actor: one at work, one to go on with


class Measurer:
    """What an actor is: every engine open, on the cores that it was given.

    Args:
        made: the plan.
        contenders: what answers.
        folder: of the run.
        speed: what the actor's share of its node is.
    """

    def __init__(self, made: Plan, contenders: Sequence[Contender], folder: Path, speed: Speed) -> None:
        self._made, self._contenders, self._store, self._speed = made, contenders, Store(folder), speed

    @cached_property
    def _lines(self) -> list[Line]:
        settle_process()
        return lines_from_contenders(self._made, self._contenders, self._speed.batch, Meter())

    def objection(self) -> str:
        """Why this node cannot take part; "" where it can."""
        where = f"node {platform.node()}"
        if not self._store.claimed:
            return f"{where} does not see {self._store.folder}; put the run, with -o, where every node has it"
        begun = self._store.read_json("run.json")["identity"]["environment"]
        difference = first_difference(begun, environment())
        if difference:
            return (
                f"{where} differs from the machine that began the run in {difference}, so its rows might differ too; "
                f"install the same versions, and use processors of one kind"
            )
        return ""

    def measure(self, piece: Slice) -> int:
        """Measure a slice and write its part; returns how many pictures it has."""
        preparation = self._made.preparation(self._speed.batch)
        lane = Lane(self._lines, preparation, self._store, self._speed, [piece])
        take_turns([lane], _never, Advance(None, None))
        return len(piece.samples)


def run_on_cluster(
    address: str, made: Plan, contenders: Sequence[Contender], store: Store, speed: Speed, progress: Progress
) -> None:
    """Measure what the store does not hold yet, on all nodes of a cluster.

    Args:
        address: of the cluster's head, or "local" for one on this machine that ends with the run.
        speed: of one actor. Where it is free, an actor has two caller threads, which prepare their own pictures.

    Raises:
        HarnessError: no cluster there, a node that cannot take part, or a slice on which actor after actor is lost.
            What was measured is kept.
    """
    slices = owned_slices(made, store, progress)
    missing = missing_slices(slices, contenders, store)
    if not missing:
        return
    total, left = (sum(len(each.samples) for each in some) for some in (slices, missing))
    with _connected(address), progress.task("measure", total=total, done=total - left) as advance:
        share = _share(contenders, speed)
        actors = _actors(share, made, contenders, store, speed)
        progress.say(f"Ray: actors {len(actors)}, nodes {len(_ray.nodes())}; each actor has {_text(share)}")
        for pictures in _Crew(actors, missing).pictures():
            advance(pictures)


class _Task(NamedTuple):
    """What an actor was sent: a slice for the n-th time, or a question that only shows that it is there again."""

    actor: int
    piece: Slice | None
    attempt: int


class _Crew:
    """Actors, and what they are at. What a lost actor was at goes to others; Ray starts it again where there is room,
    if need be on another node, and it takes part again when it answers.

    Args:
        actors: of `Measurer`.
        missing: the slices.
    """

    def __init__(self, actors: Sequence[Any], missing: Sequence[Slice]) -> None:
        self._actors = actors
        self._well = list(range(len(actors)))
        self._todo = deque((piece, 1) for piece in missing)
        self._flying: dict[Any, _Task] = {}

    def pictures(self) -> Iterator[int]:
        """The number of pictures of every slice, as it is done.

        Raises:
            HarnessError: actor after actor is lost over a slice, or all are and none comes back.
        """
        seen = time.monotonic()
        while self._todo or any(task.piece for task in self._flying.values()):
            self._assign()
            if self._well:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE_SECONDS:
                raise HarnessError(
                    f"no actor has come back for {PATIENCE_SECONDS:.0f} s; see to the cluster and repeat"
                )
            done, _ = ray.wait(list(self._flying), num_returns=1, timeout=ASK_SECONDS)
            for each in done:
                yield self._taken(self._flying.pop(each), each)

    def _assign(self) -> None:
        for number in self._well:
            while self._todo and sum(task.actor == number for task in self._flying.values()) < IN_FLIGHT:
                piece, attempt = self._todo.popleft()
                self._flying[self._actors[number].measure.remote(piece)] = _Task(number, piece, attempt)

    def _taken(self, task: _Task, done: Any) -> int:
        """How many more pictures are measured."""
        try:
            answer = ray.get(done)
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, HarnessError) else error from None
        except RayActorError as error:
            self._lost(task, error)
            return 0
        if task.piece is not None:
            return int(answer)
        self._well.append(task.actor)
        return 0

    def _lost(self, task: _Task, error: RayActorError) -> None:
        """Do without an actor until it answers again."""
        self._well = [number for number in self._well if number != task.actor]
        if task.piece is None:
            time.sleep(ASK_SECONDS)
        else:
            self._todo.appendleft((task.piece, _next_attempt(task, error)))
        if all(other.actor != task.actor or other.piece for other in self._flying.values()):
            self._flying[self._actors[task.actor].objection.remote()] = _Task(task.actor, None, 0)


def _next_attempt(task: _Task, error: RayActorError) -> int:
    """The number of the next attempt at the slice of a lost actor.

    Raises:
        HarnessError: there were enough; it may be the slice that ends them.
    """
    if task.attempt == ATTEMPTS and task.piece is not None:
        raise HarnessError(
            f"{ATTEMPTS} actors were lost over part {task.piece.index:06d}, which begins with "
            f"{task.piece.samples[0].id}: {error}"
        ) from error
    return task.attempt + 1


@contextmanager
def _connected(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _check_listening(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise HarnessError(f"there is no Ray cluster at {address!r}: {error}") from error
    try:
        yield
    except RayError as error:
        raise HarnessError(f"the cluster was lost ({error}); what was measured is kept, repeat the command") from error
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Fail at once where nothing listens; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _share(contenders: Sequence[Contender], speed: Speed) -> dict[str, float]:
    """What one actor occupies: its processes and threads, and a GPU where an engine needs one."""
    gpu = any(ENGINES[each.engine].extra in GPU_EXTRAS for each in contenders if each.engine in ENGINES)
    threads = max(each.options.threads for each in contenders)
    staff = _fixed(speed)
    return {"num_cpus": (staff.workers or 0) + (staff.callers or 1) * threads, "num_gpus": float(gpu)}


def _text(share: dict[str, float]) -> str:
    gpu = f" and {share['num_gpus']:g} GPU" if share["num_gpus"] else ""
    return f"{share['num_cpus']:g} cores{gpu}"


def _fixed(speed: Speed) -> Speed:
    """Two callers and no workers, where the user left it free: a slice is too little for starting processes."""
    return Speed(
        0 if speed.workers is None else speed.workers, 2 if speed.callers is None else speed.callers, speed.batch
    )


def _actors(
    share: dict[str, float], made: Plan, contenders: Sequence[Contender], store: Store, speed: Speed
) -> list[Any]:
    """As many as the cluster has room for."""
    there: dict[str, float] = _ray.cluster_resources()
    count = min(
        int(there.get(name, 0) // wanted)
        for name, wanted in (("CPU", share["num_cpus"]), ("GPU", share["num_gpus"]))
        if wanted
    )
    if not count:
        raise HarnessError(
            f"an actor needs {_text(share)}, and the cluster has {there.get('CPU', 0):g} cores and "
            f"{there.get('GPU', 0):g} GPUs in all; add nodes, or give --workers 0 --callers 1"
        )
    actor = _ray.remote(max_restarts=-1, **share)(Measurer)
    # Pictures come with their slices. What remains is small enough to travel with every restart of an actor; what is
    # large, Ray would keep apart, and may have freed by then.
    none = replace(made.scored, samples=())
    bare = replace(made, scored=none, calibration=replace(made.calibration, samples=none, ready=None))
    actors = [actor.remote(bare, tuple(contenders), store.folder.resolve(), _fixed(speed)) for _ in range(count)]
    objections = [each for each in _ray.get([actor.objection.remote() for actor in actors]) if each]
    if objections:
        raise HarnessError(objections[0])
    return actors


def _never() -> bool:
    """Whether it is enough: a cluster measures everything."""
    return False
