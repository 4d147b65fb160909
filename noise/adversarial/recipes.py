"""Named lists of attacks with budgets: those of published studies, and those that an 8-bit picture can carry.

A recipe names attacks as text (`noise.adversarial.names`), so it is data, and it imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from noise.adversarial.base import L1, L2, LINF, Budget
from noise.base import NoiseError


@dataclass(frozen=True)
class Planned:
    """One attack of a recipe: its text, and its budget, or `None` for the one that the user gives."""

    attack: str
    budget: Budget | None = None


@dataclass(frozen=True)
class Recipe:
    """A list of attacks.

    Args:
        about: what it is, and whose.
        attacks: in order.
        cascades: whether each attack gets only the pictures that stand after those before it. Else all get all
            pictures, and the worst case is taken afterwards.
    """

    about: str
    attacks: tuple[Planned, ...]
    cascades: bool = False

    def with_budget(self, budget: Budget | None) -> Recipe:
        """The same with a budget wherever the recipe leaves it open.

        Raises:
            NoiseError: it leaves one open and none is given, or it leaves none open and one is given.
        """
        open_ones = [planned.attack for planned in self.attacks if planned.budget is None]
        if open_ones and budget is None:
            raise NoiseError(f"this recipe leaves the budget of {', '.join(open_ones)} open; give one, such as 4/255")
        if budget is not None and not open_ones:
            raise NoiseError(f"this recipe has budgets of its own; got {budget.name} beside them")
        planned = (Planned(each.attack, each.budget or budget) for each in self.attacks)
        return Recipe(self.about, tuple(planned), self.cascades)


# AutoAttack "standard" (Croce & Hein 2020): 100 steps, 9 targets. A misread picture counts at once and is not meant for
# another model, so nothing is gained by climbing on.
AUTOATTACK = (
    "apgd-ce:steps=100,early=true",
    "apgd-t:steps=100,targets=9,early=true",
    "fab-t:steps=100,targets=9",
    "square:queries=5000",
)

# The published MIM steps 0.002 and ART's l1 steps 120, whatever the budget.
MIM_STEP = 0.002
ART_L1_STEP = 120.0


def _robustart(size: str, level: float, l2: float, l1: float) -> Recipe:
    """RobustART's attacks at one size (repository DIG-Beihang/RobustART, `adv/attack.py`, `noise/utils`).

    Steps are shares of epsilon. The two of fixed length are longer than the whole small budget (0.002 is 1.02 of
    0.5/255, 120 is 1.2 of 100): there a step leads from edge to edge and its length says nothing, so it is cut to
    epsilon. Theirs clips to the box after the projection in l1, ours projects onto both at once.
    """
    linf = Budget(LINF, level / 255)
    mim_step = min(MIM_STEP / linf.epsilon, 1.0)
    l1_step = min(ART_L1_STEP / l1, 1.0)
    return Recipe(
        f"RobustART's attacks, {size} budgets: {level:g}/255 in l-inf, {l2:g} in l2, {l1:g} in l1",
        (
            Planned("fgsm", linf),
            Planned("pgd:steps=20,step=0.075", linf),
            Planned("pgd:steps=20,step=0.075", Budget(L2, l2)),
            Planned(f"pgd:steps=20,step={l1_step:.6g}", Budget(L1, l1)),
            Planned(f"mi-fgsm:steps=20,step={mim_step:.6g},decay=1,random_start=true", linf),
            *(Planned(attack, linf) for attack in AUTOATTACK),
        ),
    )


GREY_LEVELS = (1, 2, 4, 8)

RECIPES: dict[str, Recipe] = {
    "autoattack": Recipe(
        'AutoAttack "standard" in l-inf or l2: APGD-CE, APGD-T, FAB-T and Square, each on what still stands',
        tuple(map(Planned, AUTOATTACK)),
        cascades=True,
    ),
    "transfer": Recipe(
        "attacks whose pictures are handed on to another model: they climb on behind the first misread picture",
        tuple(map(Planned, ("pgd:steps=20", "mi-fgsm:steps=20", "apgd-ce:steps=100", "apgd-dlr:steps=100"))),
    ),
    "grey-levels": Recipe(
        "PGD, APGD and Square within 1, 2, 4 and 8 whole grey levels, which 8-bit pictures can carry",
        tuple(
            Planned(attack, Budget(LINF, level / 255))
            for level in GREY_LEVELS
            for attack in ("pgd:steps=20", "apgd-ce:steps=100", "square:queries=5000")
        ),
    ),
    "robustart-small": _robustart("small", 0.5, 0.5, 100),
    "robustart-middle": _robustart("middle", 2, 2, 400),
    "robustart-large": _robustart("large", 8, 8, 1600),
}
