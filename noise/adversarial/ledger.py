"""The ledger: the one door to a model that only answers, where every forward pass is counted.

An attack by queries is written for one picture, as a generator that yields questions and is sent the answers
(`Search`). The ledger runs many of them abreast. It packs what they ask into batches of the model's own size, sends
each its answers, ends a search when its picture is misread or its budget is used up, and never puts the same question
twice. What happens to a picture depends on its own search alone, so that neither order nor company changes anything.
Each picture is handed on as soon as its own search has ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from noise.adversarial import DECISION, SCORES
from noise.adversarial.base import Budget, Labels, Pictures
from noise.base import NoiseError

Floats = npt.NDArray[np.float32]

# Yields float32 [3, H, W] pictures, is sent float32 [questions], the margin of each: score of the true class minus the
# best other score, above 0 where the picture is read right; just 1 and -1 where the attack needs the top class alone.
# A yielded picture is the ledger's: the search must not write to it any more. Many questions are better yielded as an
# iterator, which is drawn from as batches have room.
Search: TypeAlias = Generator[Iterable[Pictures], Floats, None]

# A search that asks nothing but what it knows the answer to is ended after as many questions.
PATIENCE = 1000
TINY = np.finfo(np.float32).tiny


def scores_from_probabilities(probabilities: npt.NDArray[Any]) -> Floats:
    """Probabilities [n, classes] become scores: their logarithms, which order the classes as logits would."""
    return np.log(np.maximum(np.asarray(probabilities, np.float32), TINY))


@dataclass(frozen=True)
class Account:
    """What was asked about one picture.

    Args:
        margins: the answers in order, one for each forward pass. The first is about the picture itself.
        broken_at: the number of the first query that was misread within the budget; 1 is the picture itself, `None`
            is a picture that stands.
        repeated: how many questions were answered from memory.
    """

    margins: tuple[float, ...] = ()
    broken_at: int | None = None
    repeated: int = 0

    @property
    def queries(self) -> int:
        """Forward passes. A batch is answered whole, so some may be behind `broken_at`."""
        return len(self.margins)


# Is given a picture's place, what was found, float32 [3, H, W], and its account.
OnFinished: TypeAlias = Callable[[int, Pictures, Account], None]


@dataclass
class Ledger:
    """A model behind its ledger.

    Args:
        model: float32 [n, 3, H, W] in [0, 1], n at most ``batch`` -> scores [n, classes], logits or logarithms of
            probabilities; where ``gives`` is `DECISION`, the top class of each, integers [n].
        batch: as many pictures the model is asked about at once, fewer only when no more are waiting.
        gives: `SCORES` or `DECISION`.
        abreast: how many pictures are attacked at once; memory grows with it.
        on_finished: is called as soon as a search has ended, with the place of its picture in `search`, what `search`
            returns for it, and its account.

    Attributes:
        accounts: one for every picture of every attack so far, in order.
        calls: how often the model was called.
        queries: forward passes of single pictures.
        model_ns: nanoseconds inside the model.
    """

    model: Callable[[Pictures], npt.NDArray[Any]]
    batch: int
    gives: str = SCORES
    abreast: int = 64
    on_finished: OnFinished = lambda place, best, account: None
    calls: int = field(default=0, init=False)
    queries: int = field(default=0, init=False)
    model_ns: int = field(default=0, init=False)
    _cases: list[_Case] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.abreast < 1:
            raise NoiseError(f"batch and abreast must be at least 1; got {self.batch} and {self.abreast}")
        if self.gives not in (SCORES, DECISION):
            raise NoiseError(f"a model behind a ledger gives {SCORES} or {DECISION}; got {self.gives!r}")

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One account for every picture of every attack so far, in order."""
        return tuple(case.account for case in self._cases)

    def search(self, terms: Terms, pictures: Pictures, labels: Labels, searches: Sequence[Search]) -> Pictures:
        """Run one search for each picture to its end.

        The picture itself is the first question of each and counts as one. Misread pictures are at their end at once.

        Args:
            terms: what the searches may ask.
            pictures: float32 [N, 3, H, W].
            labels: [N], their true classes.
            searches: one for each picture.

        Returns:
            For each picture the first asked one that was misread within the budget, else the one with the smallest
            margin within the budget.

        Raises:
            NoiseError: the searches need scores and the model gives none, or its answers are not what it declares.
        """
        if terms.needs == SCORES and self.gives != SCORES:
            raise NoiseError("this attack needs scores of all classes, and the model gives its top class alone")
        if not len(pictures) == len(labels) == len(searches):
            raise NoiseError(
                f"expected as many labels and searches as pictures, {len(pictures)}; "
                f"got {len(labels)} and {len(searches)}"
            )
        cases = [
            _Case(terms, picture, int(label), search)
            for picture, label, search in zip(pictures, labels, searches, strict=True)
        ]
        self._cases.extend(cases)
        self._run(cases)
        return np.stack([case.best for case in cases]) if cases else pictures.copy()

    def _run(self, cases: Sequence[_Case]) -> None:
        idle = deque(enumerate(cases))
        active: deque[tuple[int, _Case]] = deque()
        while idle or active:
            while idle and len(active) < self.abreast:
                active.append(idle.popleft())
            asked: list[_Question] = []
            for _ in range(len(active)):
                place, case = active.popleft()
                asked.extend(case.questions(self.batch - len(asked)))
                active.append((place, case))
                if len(asked) == self.batch:
                    break
            if asked:
                self._ask(asked)
            for place, case in active:
                if case.ended:
                    self.on_finished(place, case.best, case.account)
            active = deque(each for each in active if not each[1].ended)

    def _ask(self, asked: Sequence[_Question]) -> None:
        rows = np.stack([question.picture for question in asked])
        labels = np.array([question.case.label for question in asked])
        started_ns = time.perf_counter_ns()
        answers = np.asarray(self.model(rows))
        self.model_ns += time.perf_counter_ns() - started_ns
        self.calls += 1
        self.queries += len(asked)
        top, margins = self._read(answers, labels)
        for question, misread, margin in zip(asked, top != labels, margins, strict=True):
            scored = question.case.terms.needs == SCORES
            question.case.answered(question, float(margin) if scored else 1.0 - 2 * bool(misread), bool(misread))

    def _read(self, answers: npt.NDArray[Any], labels: Labels) -> tuple[npt.NDArray[Any], Floats]:
        """The top class and the margin of every row."""
        rows = len(labels)
        if self.gives == DECISION:
            if answers.shape != (rows,) or not np.issubdtype(answers.dtype, np.integer):
                raise NoiseError(f"expected top classes, integers [{rows}]; got {answers.dtype} {list(answers.shape)}")
            return answers, np.where(answers == labels, 1, -1).astype(np.float32)
        if answers.ndim != 2 or len(answers) != rows or answers.shape[1] <= labels.max():
            raise NoiseError(
                f"expected scores [{rows}, classes] of more than {labels.max()} classes; got {list(answers.shape)}"
            )
        if np.isnan(answers).any():
            raise NoiseError(f"the model answered {rows} pictures with scores that are not numbers")
        others = answers.astype(np.float32)
        true = others[np.arange(rows), labels]
        others[np.arange(rows), labels] = -np.inf
        return answers.argmax(axis=1), true - others.max(axis=1)


@dataclass(frozen=True)
class Terms:
    """What searches may ask.

    Args:
        budget: how far a picture may be from its original to count.
        queries: forward passes for each picture, the first of the original included.
        needs: `SCORES`, or `DECISION` for searches that are sent signs alone.
    """

    budget: Budget
    queries: int
    needs: str

    def __post_init__(self) -> None:
        if self.queries < 2:
            raise NoiseError(f"an attack by queries needs at least 2, of which the first is clean; got {self.queries}")


@dataclass(frozen=True)
class _Question:
    """A picture on its way to the model, the number of the query counted from 0."""

    case: _Case
    number: int
    picture: Pictures


class _Case:
    """One picture and its search."""

    def __init__(self, terms: Terms, original: Pictures, label: int, search: Search) -> None:
        self.terms, self.original, self.label = terms, original, label
        self.best = original
        self._best_margin = np.inf
        self._margins: list[float] = []
        self._broken_at: int | None = None
        self._repeated = 0
        self._search = search
        self._questions: Iterator[Pictures] = iter(())
        self._begun = False
        self.ended = False
        self._asked = 0
        self._memory: dict[int, int] = {}
        # The numbers of the queries that answer what was last yielded.
        self._numbers: list[int] = []

    @property
    def account(self) -> Account:
        return Account(tuple(self._margins), self._broken_at, self._repeated)

    def questions(self, room: int) -> Iterator[_Question]:
        """Up to ``room`` questions that only the model can answer; none while answers are outstanding."""
        repeated_in_a_row = 0
        while room and not self.ended:
            picture = self._next()
            if picture is None:
                return
            key = hash(picture.tobytes())
            if key in self._memory:
                self._numbers.append(self._memory[key])
                self._repeated += 1
                repeated_in_a_row += 1
                if repeated_in_a_row == PATIENCE:
                    self._end()
                continue
            if self._asked == self.terms.queries:
                self._end()
                return
            repeated_in_a_row = 0
            question = _Question(self, self._asked, picture)
            self._memory[key] = self._asked
            self._numbers.append(self._asked)
            self._asked += 1
            room -= 1
            yield question

    def answered(self, question: _Question, margin: float, misread: bool) -> None:
        """Take the model's answer; questions are answered in their order."""
        self._margins.append(margin)
        if self._broken_at is None:
            self._judge(question, misread)

    def _judge(self, question: _Question, misread: bool) -> None:
        margin = self._margins[question.number]
        if not misread and margin > self._best_margin:
            return
        if self.terms.budget.holds(question.picture[None], self.original[None])[0]:
            self.best, self._best_margin = question.picture, margin
            if misread:
                self._broken_at = question.number + 1
                self._end()

    def _next(self) -> Pictures | None:
        """The search's next question, or `None` while it waits for answers, or because it has ended."""
        while True:
            picture = next(self._questions, None)
            if picture is not None:
                return picture
            if self._numbers and max(self._numbers) >= len(self._margins):
                return None
            try:
                self._questions = iter(self._advance())
            except StopIteration:
                self._end()
                return None

    def _advance(self) -> Iterable[Pictures]:
        answers = np.array([self._margins[number] for number in self._numbers], np.float32)
        self._numbers = []
        if self._asked == 0:
            return [self.original]
        if not self._begun:
            self._begun = True
            return next(self._search)
        return self._search.send(answers)

    def _end(self) -> None:
        self.ended = True
        self._search.close()
        self._questions = iter(())
        self._memory.clear()
