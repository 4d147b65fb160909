"""Workers: processes that prepare pictures straight into slots of shared memory, and one thread that minds them.

Each worker has its own slots and its own connection. A worker waits when its slots are full, so memory is bounded
and a slow engine holds the line back. A worker that dies is replaced, and so is one that hangs, which is killed. Its
shared memory says at which picture that was; the picture is tried once more, and is a record with an error if it
happens again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.batches import Batch, Bundle, Preparation
from harness.errors import HarnessError
from harness.feed import Delivery, Todo
from harness.meter import Meter
from harness.worker import NOTHING, WAITING, Filled, shared_bytes, shared_from_descriptor

HOME = Path(__file__).resolve().parent.parent
BOOT = "import sys; sys.path[0] = sys.argv[1]; from harness.worker import main; main()"
ASSIGNED = 2  # bundles that a worker has at once: one at work, one to go on with
IN_VAIN = 10  # deaths in a row, with no bundle finished between them, after which it is no picture's fault
END_SECONDS = 5.0
PATIENCE_SECONDS = 120.0  # for one picture: far beyond a slow store, far below a night


# Is shown memory in which batches will be; see `harness.line.Line.page_lock`.
PageLock = Callable[[npt.NDArray[np.uint8]], None]


class _Worker:
    """One process as its parent sees it."""

    def __init__(self, preparation: Preparation, slots: int) -> None:
        ours, theirs = socket.socketpair()
        descriptor = os.memfd_create("qharness")
        try:
            os.ftruncate(descriptor, shared_bytes(preparation, slots))
            self.shared = shared_from_descriptor(descriptor, preparation, slots)
            self.shared.at[:] = NOTHING  # a process that dies while it starts is no picture's fault
            self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
            command = [sys.executable, "-c", BOOT, str(HOME), str(theirs.fileno()), str(descriptor)]
            self.process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), descriptor),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.stderr,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        finally:
            os.close(descriptor)
            theirs.close()
        self.connection = Connection(ours.detach())
        self.assigned: deque[Bundle] = deque()
        self.hung_seconds: float | None = None
        self._sending = threading.Lock()
        self.send((preparation, slots))

    def send(self, message: object) -> None:
        """Send something; a worker that has gone is noticed where its answer is missed."""
        with self._sending, contextlib.suppress(OSError):
            self.connection.send(message)

    def end_if_hung(self, patience_seconds: float) -> None:
        """Kill a process that has been at one picture for too long; its death is then noticed as any other."""
        since = float(self.shared.since[0])
        if since != WAITING and self.hung_seconds is None and time.monotonic() - since > patience_seconds:
            self.hung_seconds = time.monotonic() - since
            self.process.kill()

    def end(self) -> int:
        """Make sure that the process is gone; returns its exit code, negative for a signal."""
        with self._sending:
            self.connection.close()
        try:
            return self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def said(self) -> str:
        """What the process wrote to its standard error."""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace").strip()


class WorkerFeed:
    """Batches from worker processes.

    Args:
        preparation: what the workers do.
        todo: the bundles.
        workers: how many processes.
        slots: batches that each may have filled and not got back.
        meter: is told where the time goes.
        patience_seconds: for which a worker may be at one picture before it counts as hung; waiting does not count.
    """

    def __init__(
        self,
        preparation: Preparation,
        todo: Todo,
        workers: int,
        slots: int,
        meter: Meter,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._preparation, self._todo, self._slots, self._meter = preparation, todo, slots, meter
        self._patience_seconds = patience_seconds
        self._again: deque[Bundle] = deque()
        self._strikes: dict[tuple[int, int], int] = {}
        self._in_vain = 0
        self._filled: deque[Delivery] = deque()
        self._changed = threading.Condition()
        self._over = False
        self._error: BaseException | None = None
        self._bell, self._rope = os.pipe()
        os.set_blocking(self._rope, False)
        self._page_lock: PageLock = _not_locked
        self._workers = [_Worker(preparation, slots) for _ in range(workers)]
        self._thread = threading.Thread(target=self._mind, name="qharness workers", daemon=True)
        self._thread.start()

    def stream(self) -> Iterator[Delivery]:
        """As `harness.feed.Feed.stream`.

        Raises:
            HarnessError: workers do not start, or keep dying.
        """
        while True:
            started = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._filled or self._over)
                if self._error:
                    raise self._error
                if not self._filled:
                    return
                depth = len(self._filled)
                delivery = self._filled.popleft()
            self._meter.taken(depth, time.perf_counter() - started)
            yield delivery

    def collected(self) -> None:
        """As `harness.feed.Feed.collected`."""
        self._todo.collected()
        self._ring()

    def lock_pages(self, page_lock: PageLock) -> None:
        """Have the memory of all workers page-locked, of those too that replace others."""
        self._page_lock = page_lock
        for worker in tuple(self._workers):
            page_lock(worker.shared.memory)

    def close(self) -> None:
        """As `harness.feed.Feed.close`."""
        self._finish()
        self._ring()
        self._thread.join()
        os.close(self._bell)
        os.close(self._rope)

    def _ring(self) -> None:
        """Wake the thread. A full pipe has woken it already."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._rope, b"!")

    def _finish(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._over, self._error = True, self._error or error
            self._changed.notify_all()

    def _mind(self) -> None:
        try:
            while not self._over:
                self._assign()
                idle = not any(worker.assigned for worker in self._workers)
                if idle and not self._again and self._todo.exhausted:
                    self._finish()
                    break
                by_connection = {worker.connection: worker for worker in self._workers}
                for ready in wait([*by_connection, self._bell], self._patience_seconds / 4):
                    if isinstance(ready, Connection):
                        self._receive(by_connection[ready])
                    else:
                        os.read(self._bell, 4096)
                for worker in self._workers:
                    worker.end_if_hung(self._patience_seconds)
        except BaseException as error:  # noqa: BLE001 - it is raised again where batches are waited for
            self._finish(error)
        finally:
            for worker in self._workers:
                worker.end()
                worker.stderr.close()

    def _assign(self) -> None:
        """Give work to whoever has least of it."""
        for has in range(ASSIGNED):
            for worker in self._workers:
                if len(worker.assigned) > has:
                    continue
                bundle = self._again.popleft() if self._again else self._todo.take_now()
                if bundle is None:
                    return
                worker.assigned.append(bundle)
                worker.send(bundle)

    def _receive(self, worker: _Worker) -> None:
        try:
            message: Filled = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        bundle = worker.assigned[0]
        if message.last:
            worker.assigned.popleft()
            self._in_vain = 0
        self._meter.prepared(message.stage_seconds, message.cpu_seconds, message.blocked_seconds)
        inputs = worker.shared.slots[message.slot or 0][: message.inputs]
        batch = Batch(message.number, message.rows, inputs, message.last)

        def release(slot: int | None = message.slot) -> None:
            if slot is not None:
                worker.send(slot)

        with self._changed:
            self._filled.append(Delivery(bundle, batch, release))
            self._changed.notify()

    def _replace(self, worker: _Worker) -> None:
        """Take a dead worker's place, and see that its bundles are done again."""
        code, said = worker.end(), worker.said()
        if code >= 0:
            raise RuntimeError(f"a worker process ended with exit code {code}:\n{said or 'it said nothing'}")
        how = f"by signal {-code} ({signal.strsignal(-code)})"
        if worker.hung_seconds is not None:
            how = f"because it hung for {worker.hung_seconds:.0f} s"
        self._in_vain += 1
        if self._in_vain > IN_VAIN:
            raise HarnessError(
                f"worker processes died {self._in_vain} times in a row, the last {how}; memory may be short, or the "
                f"pictures out of reach: try fewer with --workers, or 0 to do without them"
            )
        self._again.extend(self._blamed(worker, bundle, how) for bundle in worker.assigned)
        worker.stderr.close()
        fresh = _Worker(self._preparation, self._slots)
        self._page_lock(fresh.shared.memory)
        self._workers[self._workers.index(worker)] = fresh

    def _blamed(self, worker: _Worker, bundle: Bundle, how: str) -> Bundle:
        """The bundle for its next attempt; a picture on which a worker died twice is not touched again."""
        index, position = (int(value) for value in worker.shared.at)
        fatal = dict(bundle.fatal)
        if index == bundle.index:
            strikes = self._strikes[index, position] = self._strikes.get((index, position), 0) + 1
            if strikes == 2:
                fatal[position] = f"worker: the process that prepared this picture ended twice, the last time {how}"
        return replace(bundle, fatal=fatal, attempt=bundle.attempt + 1)


def _not_locked(memory: npt.NDArray[np.uint8]) -> None:
    """For engines that read memory as it is."""


def feed_from_workers(
    preparation: Preparation, bundles: Sequence[Bundle], counts: tuple[int, int], ahead: int, meter: Meter
) -> WorkerFeed:
    """A feed with as many slots as keep the callers busy.

    Args:
        counts: workers, and callers.
    """
    workers, callers = counts
    slots = 2 + -(-callers // workers)
    return WorkerFeed(preparation, Todo(bundles, ahead), workers, slots, meter)
