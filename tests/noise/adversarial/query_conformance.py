"""What every attack on the engine itself must do, as checks that can be tried on a broken one too."""

from __future__ import annotations

import numpy as np

from noise.adversarial import DECISION, SCORES
from noise.adversarial.base import Attack, Budget, Labels, Pictures
from noise.adversarial.ledger import Ledger
from tests.noise.adversarial.query_doubles import Linear, Planted, TopClass, generators, linear, pictures_of


def check_counts(attack: Attack, queries: int, new_ledger: type[Ledger] = Ledger) -> None:
    """The ledger says what the model saw: no more than the budget for each picture, and nothing twice about one."""
    model, pictures, labels = _case()
    ledger = new_ledger(model, 4)
    attack(ledger, pictures, labels, generators(len(pictures)))
    assert ledger.queries == len(model.asked) == sum(account.queries for account in ledger.accounts)
    assert ledger.calls == len(model.batches)
    assert max(account.queries for account in ledger.accounts) <= queries
    for index in range(len(pictures)):
        model.batches.clear()
        one = slice(index, index + 1)
        attack(Ledger(model, 1), pictures[one], labels[one], generators(1))
        assert len(set(model.asked)) == len(model.asked)


def check_bound(attack: Attack, budget: Budget) -> None:
    """What comes back is within the budget, also of pictures that are black or white already."""
    model, pictures, labels = _case()
    pictures[1], pictures[2, 0] = 0, 1
    found = attack(Ledger(model, 4), pictures, labels, generators(len(pictures)))
    assert found.dtype == np.float32
    assert budget.holds(found, pictures).all()


def check_independence(attack: Attack) -> None:
    """Alone, in a batch and in another order, the same happens to a picture."""
    model, pictures, labels = _case()
    number = len(pictures)
    together = attack(Ledger(model, 4, abreast=3), pictures, labels, generators(number))
    backwards = attack(Ledger(model, 2), pictures[::-1], labels[::-1], generators(number)[::-1])
    np.testing.assert_array_equal(backwards[::-1], together)
    for index in (number - 1, 0):
        one = slice(index, index + 1)
        alone = attack(Ledger(model, 1), pictures[one], labels[one], generators(number)[one])
        np.testing.assert_array_equal(alone[0], together[index])


def check_inputs_are_left_alone(attack: Attack) -> None:
    model, pictures, labels = _case()
    before, true = pictures.copy(), labels.copy()
    attack(Ledger(model, 4), pictures, labels, generators(len(pictures)))
    np.testing.assert_array_equal(pictures, before)
    np.testing.assert_array_equal(labels, true)


def check_finds_what_is_planted(attack: Attack, needs: str, reach: float) -> None:
    """An adversarial picture exists by design (Zimmermann et al. 2022), and the attack finds one."""
    pictures = np.full((3, 3, 8, 8), 0.5, np.float32)
    planted = Planted(0.5 + reach)
    # Whoever needs no scores is given none.
    ledger = Ledger(planted, 4) if needs == SCORES else Ledger(TopClass(planted), 4, DECISION)
    found = attack(ledger, pictures, np.zeros(3, np.int64), generators(3))
    assert [account.broken_at is not None and account.broken_at > 1 for account in ledger.accounts] == [True] * 3
    assert (planted(found).argmax(axis=1) == 1).all()


def check_decides_by_classes_alone(attack: Attack) -> None:
    """Scores change nothing for an attack that says it needs none."""
    model, pictures, labels = _case()
    by_scores = attack(Ledger(model, 4), pictures, labels, generators(len(pictures)))
    by_class = attack(Ledger(TopClass(model), 4, DECISION), pictures, labels, generators(len(pictures)))
    np.testing.assert_array_equal(by_scores, by_class)


def _case() -> tuple[Linear, Pictures, Labels]:
    model = linear(5)
    pictures, labels = pictures_of(model, 6, seed=5)
    return model, pictures, labels
