"""Auto-PGD: projected gradient descent that finds its step sizes by itself (Croce & Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from noise.adversarial.base import L1, Attack, Budget
from noise.adversarial.gradient.ball import Ball, Generators, ball_of, each
from noise.adversarial.gradient.losses import cross_entropy, dlr, targeted_dlr
from noise.adversarial.gradient.search import Aim, Best, Look, Loss, Model, attack_from_search, glance, look
from noise.base import NoiseError

MOMENTUM = 0.75  # the share of the new step; the rest is the step before it
SPARSEST_STEP = 0.1  # in l1, the shortest step as a share of epsilon


def apgd_ce(budget: Budget, *, steps: int = 100, restarts: int = 1, rho: float = 0.75, early: bool = False) -> Attack:
    """Auto-PGD on cross-entropy, in l1 that of Croce & Hein 2021 (without its larger epsilons at the start).

    Args:
        steps: of each start, which takes one pass more.
        restarts: random starts; from the second on only for pictures that are still read right.
        rho: the share of steps that must raise the loss, or the step size is halved.
        early: let a picture go as soon as it is misread; see `noise.adversarial.gradient.pgd.pgd`.
    """
    return _untargeted(budget, cross_entropy, restarts, Schedule(steps, rho, early))


def apgd_dlr(budget: Budget, *, steps: int = 100, restarts: int = 1, rho: float = 0.75, early: bool = False) -> Attack:
    """Auto-PGD on the difference of logits ratio. See `apgd_ce`."""
    return _untargeted(budget, dlr, restarts, Schedule(steps, rho, early))


def apgd_t(budget: Budget, *, steps: int = 100, targets: int = 9, rho: float = 0.75, early: bool = False) -> Attack:
    """APGD-T: Auto-PGD on the targeted ratio, towards one class after the other while a picture is still read right.

    Args:
        targets: classes that are tried, those of the highest logits on the picture itself first.
        steps, rho, early: see `apgd_ce`.
    """
    if targets < 1:
        raise NoiseError(f"apgd-t tries at least 1 target; got {targets}")
    schedule, ball = Schedule(steps, rho, early), ball_of(budget)

    def search(model: Model, originals: Tensor, labels: Tensor, rngs: Generators) -> Tensor:
        best = Best(originals)
        for classes in likeliest(model, originals, targets).unbind(1):
            aim = Aim(targeted_dlr, labels, classes)
            if not _start(model, ball, Begin(originals, aim, rngs), best, schedule):
                break
        return best.pictures

    return attack_from_search(search)


def likeliest(model: Model, originals: Tensor, targets: int) -> Tensor:
    """[n, targets]: behind the class that the model sees in each picture, the next by their logits."""
    with torch.no_grad():
        logits = model(originals)
    return logits.topk(min(targets + 1, logits.shape[1]), dim=1).indices[:, 1:]


@dataclass(frozen=True)
class Schedule:
    """When and how steps become smaller. See `apgd_ce` for its fields."""

    steps: int
    rho: float
    early: bool

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.rho < 1:
            raise NoiseError(f"apgd takes steps from 1 and a rho in (0, 1); got {self.steps} and {self.rho:g}")

    def checkpoints(self) -> list[int]:
        """Steps after which step sizes are looked at: section 3.2's ``ceil(p * steps)``, p in whole percent.

        >>> Schedule(100, 0.75, False).checkpoints()
        [22, 41, 57, 70, 80, 87, 93, 99]
        """
        percent, width, found = 22, 22, []
        while percent < 100:
            found.append(-(-percent * self.steps // 100))
            width = max(width - 3, 6)
            percent += width
        return sorted(set(found))

    def checkpoints_l1(self) -> list[int]:
        """In l1: every 4 % of the steps."""
        width = max(self.steps * 4 // 100, 1)
        return list(range(width, self.steps, width))


@dataclass(frozen=True)
class Begin:
    """All pictures of a search, what is wanted of them, and their generators."""

    originals: Tensor
    aim: Aim
    rngs: Generators


@dataclass
class State:
    """Pictures on their way; the first dimension of every field counts them.

    Args:
        rows: [n], places in the batch.
        pictures, before: [n, 3, H, W], where they are, and were one step ago.
        gradients: there.
        losses: [n], there.
        lengths, sparsity: [n], of the next step.
        top, top_gradients, top_losses: the highest loss of this start.
        raised: [n], steps since the last checkpoint that raised the loss.
        top_then, shortened: the highest loss at the last checkpoint, and whether the step became shorter there.
        moved_then: in l1, how many values differed from the original at the last checkpoint.
    """

    rows: Tensor
    originals: Tensor
    pictures: Tensor
    before: Tensor
    gradients: Tensor
    losses: Tensor
    lengths: Tensor
    sparsity: Tensor
    top: Tensor
    top_gradients: Tensor
    top_losses: Tensor
    raised: Tensor
    top_then: Tensor
    shortened: Tensor
    moved_then: Tensor

    def of(self, chosen: Tensor) -> State:
        """The same for some of the pictures."""
        return State(**{each_field.name: getattr(self, each_field.name)[chosen] for each_field in fields(self)})

    def see(self, seen: Look) -> None:
        """Take what a look at the pictures says."""
        self.raised += seen.losses > self.losses
        self.gradients, self.losses = seen.gradients, seen.losses
        higher = seen.losses > self.top_losses
        self.top = torch.where(each(higher), self.pictures, self.top)
        self.top_gradients = torch.where(each(higher), seen.gradients, self.top_gradients)
        self.top_losses = torch.maximum(seen.losses, self.top_losses)

    def back_to_top(self, which: Tensor) -> None:
        """Go on from the highest loss so far."""
        self.pictures = torch.where(each(which), self.top, self.pictures)
        self.gradients = torch.where(each(which), self.top_gradients, self.gradients)
        self.losses = torch.where(which, self.top_losses, self.losses)


def _untargeted(budget: Budget, loss: Loss, restarts: int, schedule: Schedule) -> Attack:
    if restarts < 1:
        raise NoiseError(f"apgd starts at least once; got {restarts} restarts")
    ball = ball_of(budget)

    def search(model: Model, originals: Tensor, labels: Tensor, rngs: Generators) -> Tensor:
        best, begin = Best(originals), Begin(originals, Aim(loss, labels, labels), rngs)
        for _ in range(restarts):
            if not _start(model, ball, begin, best, schedule):
                break
        return best.pictures

    return attack_from_search(search)


def _start(model: Model, ball: Ball, begin: Begin, best: Best, schedule: Schedule) -> bool:
    """One start for the pictures that stand; whether there were any."""
    rows = best.standing()
    if not len(rows):
        return False
    aim, originals = begin.aim.of(rows), begin.originals[rows]
    pictures = ball.start(originals, [begin.rngs[row] for row in rows.tolist()])
    seen = look(model, pictures, aim)
    best.keep(rows, pictures, seen)
    state = _state(rows, originals, pictures, seen, ball)
    sparse = ball.norm == L1
    checkpoints = schedule.checkpoints_l1() if sparse else schedule.checkpoints()
    check: Callable[[State, Ball, float], None] = _check_l1 if sparse else _check
    last_checkpoint, misread = 0, seen.misread
    for step in range(1, schedule.steps + 1):
        if schedule.early:
            standing = (~misread).nonzero().flatten()
            state, aim = state.of(standing), aim.of(standing)
            if not len(standing):
                break
        _move(state, ball, 1.0 if sparse or step == 1 else MOMENTUM)
        seen = (look if step < schedule.steps else glance)(model, state.pictures, aim)
        best.keep(state.rows, state.pictures, seen)
        misread = seen.misread
        state.see(seen)
        if step in checkpoints:
            check(state, ball, schedule.rho * (step - last_checkpoint))
            last_checkpoint = step
    return True


def _state(rows: Tensor, originals: Tensor, pictures: Tensor, seen: Look, ball: Ball) -> State:
    whole = torch.full_like(seen.losses, ball.epsilon)
    return State(
        rows=rows,
        originals=originals,
        pictures=pictures,
        before=pictures,
        gradients=seen.gradients,
        losses=seen.losses,
        lengths=whole if ball.norm == L1 else 2 * whole,
        sparsity=torch.full_like(whole, 0.2),
        top=pictures,
        top_gradients=seen.gradients,
        top_losses=seen.losses,
        raised=torch.zeros_like(whole),
        top_then=seen.losses,
        shortened=torch.ones_like(seen.misread),
        moved_then=torch.full_like(whole, originals[0].numel()),
    )


def _move(state: State, ball: Ball, share: float) -> None:
    """Algorithm 1, lines 7 and 8."""
    stepped = ball.step(state.pictures, state.gradients, state.lengths, state.sparsity)
    new = ball.project(stepped, state.originals)
    if share < 1:
        mixed = state.pictures + share * (new - state.pictures) + (1 - share) * (state.pictures - state.before)
        new = ball.project(mixed, state.originals)
    state.before, state.pictures = state.pictures, new


def _check(state: State, ball: Ball, least_raised: float) -> None:
    """Halve the step where too few steps raised the loss, or where neither it nor the step has changed since."""
    stuck = ~state.shortened & (state.top_losses <= state.top_then)
    state.shortened = (state.raised <= least_raised) | stuck
    state.lengths = torch.where(state.shortened, state.lengths / 2, state.lengths)
    state.back_to_top(state.shortened)
    state.top_then, state.raised = state.top_losses, torch.zeros_like(state.raised)


def _check_l1(state: State, ball: Ball, least_raised: float) -> None:
    """Croce & Hein 2021, algorithm 1: move fewer values as the best picture becomes sparser, else go shorter."""
    moved = (state.top != state.originals).flatten(1).sum(1).to(state.moved_then)
    sparser = moved < 0.95 * state.moved_then
    state.sparsity = moved / state.originals[0].numel() / 1.5
    state.lengths = torch.where(sparser, ball.epsilon, state.lengths / 1.5).clamp(SPARSEST_STEP * ball.epsilon)
    state.back_to_top(sparser)
    state.moved_then = moved
