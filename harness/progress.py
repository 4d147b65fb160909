"""Progress: a bar on a terminal for anything that takes longer than two seconds, silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")


class Advance:
    """Moves one bar, or nothing where there is none."""

    def __init__(self, bars: RichProgress | None, task: TaskID | None) -> None:
        self._bars, self._task = bars, task

    def __call__(self, steps: int = 1) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, steps)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the bar moves as they are taken."""
        for item in items:
            yield item
            self()


class Progress:
    """Bars on standard error, which are left out when it is not a terminal, and lines."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def say(self, text: str) -> None:
        """One line that a person should see, terminal or not."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def over(self, what: str, items: Sequence[T]) -> Iterator[T]:
        """The same items under a bar of their own."""
        with self.task(what, total=len(items)) as advance:
            yield from advance.over(items)

    @contextmanager
    def task(self, what: str, *, total: int, done: int = 0) -> Iterator[Advance]:
        """A bar for one piece of work; it vanishes when the work ends.

        Args:
            what: the work, as a word.
            total: its size in steps.
            done: steps that an earlier session has done.
        """
        if not self._console.is_terminal:
            yield Advance(None, None)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            yield Advance(bars, bars.add_task(what, total=total, completed=done))

    @contextmanager
    def phases(self) -> Iterator[Callable[[str, int, int], None]]:
        """Bars for work that names its phases as it comes to them: (phase, steps done, steps in all)."""
        if not self._console.is_terminal:
            yield lambda phase, done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def move(phase: str, done: int, total: int) -> None:
                if phase not in tasks:
                    tasks[phase] = bars.add_task(phase, total=total)
                bars.update(tasks[phase], completed=done, visible=done < total)

            yield move
