"""The documents are true: every name and command in the tables is documented, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engines import ENGINES
from exporters import IMPROVEMENTS, METHODS, MODELS, TARGETS, TRAINED, VARIANTS, Entry
from harness.quantities import QUANTITIES
from harness.registry import NOISE_TABLE, noise_settings
from harness.rules import DEFAULT_RULES, read_rules
from noise.adversarial import ATTACKS, DECISION, GRADIENT, SCORES
from noise.adversarial.recipes import RECIPES
from noise.presets import NORMALISATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("noise", NOISE_TABLE.rows)
def test_every_noise_is_in_the_readme_with_its_settings(noise: str) -> None:
    line = next(line for line in README.splitlines() if line.startswith(f"| `{noise}` |"))
    settings = [name for name in noise_settings(noise) if name]
    if shared := re.search(r"those of `(\w+)`", line):
        assert settings == list(noise_settings(shared[1]))
    elif settings and settings[0].isdigit():
        assert f"{settings[0]} to {settings[-1]}" in line
    else:
        assert all(part in line for name in settings for part in name.split("+"))


def test_every_command_is_in_the_readme() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "harness.cli", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    commands = re.findall(r"^    (\w+) ", text, flags=re.MULTILINE)
    assert {"demo", "run", "plan", "report", "inspect", "doctor"} <= set(commands)
    for command in commands:
        assert f"qharness {command}" in README or f"make {command}" in README, command


@pytest.mark.parametrize(
    "table",
    [METHODS, TARGETS, TRAINED, VARIANTS, IMPROVEMENTS, MODELS],
    ids=["methods", "targets", "trained", "variants", "improvements", "models"],
)
def test_every_row_of_the_exporters_is_in_the_readme(table: dict[str, Entry]) -> None:
    for name in table:
        assert re.search(rf"^\| `{name}(:[\d.]+)?` \|", README, flags=re.MULTILINE), name


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_in_the_readme_with_its_norms_and_what_it_needs(attack: str) -> None:
    norms = ", ".join(ATTACKS[attack].norms)
    needs = {GRADIENT: "gradients", SCORES: "scores", DECISION: "top-1"}[ATTACKS[attack].needs]
    assert f"| `{attack}` | {norms} | {needs} |" in README


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_attacks_is_in_the_readme(recipe: str) -> None:
    assert f"| `{recipe}` |" in README


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_is_in_the_readme_with_its_unit(quantity: str) -> None:
    line = next(line for line in README.splitlines() if line.startswith("| ") and f"`{quantity}`" in line)
    assert f"| {QUANTITIES[quantity].unit} |" in line
    for key in ("noise", "version", "step"):
        assert (f"`{key}`" in line) == (key in QUANTITIES[quantity].keys)


def test_the_readme_shows_the_default_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(README.split("```toml\n")[1].split("```")[0])
    assert read_rules(tmp_path / "rules.toml") == DEFAULT_RULES


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_in_the_readme(engine: str) -> None:
    assert f"| `{engine}` |" in README


def test_every_preset_is_in_the_readme() -> None:
    for name in NORMALISATIONS:
        assert f"`{name}`" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_named_in_the_reading_order_exist() -> None:
    order = README.split("in this order:")[1].split("```")[1]
    for name in re.findall(r"^(\S+/\S*)", order, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_the_makefile_has_the_targets_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
