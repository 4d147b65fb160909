"""Names become functions: the tables of the lower floors, and the entry points of plug-ins.

This is the only place that imports a leaf module by name, so it is the only place that has to say which extra
is missing. A plug-in adds names through the entry-point groups ``qharness.steps``, ``qharness.noises``,
``qharness.engines``, ``qharness.sources`` and ``qharness.attacks``; it cannot replace a name that is built in.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from engines import BUILDERS, ENGINES, FORMATS, LINTERS
from engines.artifact import Artifact, ReadModel, format_of
from engines.base import EngineUnavailable, OpenEngine
from engines.building import BuildPlan, ComparePlans
from engines.certificate import Certify
from engines.lint import Lint
from exporters import IMPROVEMENTS, METHODS, MODELS, TARGETS, TRAINED, VARIANTS
from exporters.base import ExportError
from harness.errors import HarnessError, unknown
from harness.sources import SOURCES
from harness.sources.base import FindPictures
from noise import NOISES, STEPS
from noise.adversarial import ATTACKS
from noise.adversarial.base import Attack, Budget
from noise.adversarial.names import attack_from_name
from noise.base import MissingData, Pipeline, Setting, Step, StepFunction, Unavailable, check_picture


class Row(Protocol):
    """What a row of any table has."""

    @property
    def target(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def extra(self) -> str | None: ...


@dataclass(frozen=True)
class Table:
    """One table: what its rows are called in messages, its rows, and the group of its plug-ins."""

    what: str
    rows: Mapping[str, Row]
    group: str

    def names(self) -> tuple[str, ...]:
        """Built-in names in the table's order, then those of plug-ins."""
        plugins = {point.name for point in entry_points(group=self.group)}
        return (*self.rows, *sorted(plugins - set(self.rows)))

    def resolve(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            HarnessError: no such name, or a plug-in claims a built-in one.
            EngineUnavailable: a package is missing; the message says which extra installs it.
        """
        plugins = [point for point in entry_points(group=self.group) if point.name == name]
        if name in self.rows and plugins:
            raise HarnessError(
                f"{self.what} {name!r} is built in, but {plugins[0].value} claims the name too; uninstall one"
            )
        if name in self.rows:
            row = self.rows[name]
            return import_target(f"{self.what} {name!r}", row.target, row.extra)
        if plugins:
            return import_target(f"{self.what} {name!r}", plugins[0].value, None)
        raise unknown(self.what, name, self.names())

    def maker(self, text: str) -> Callable[[], Any]:
        """What makes the thing that ``NAME`` or ``NAME:NUMBER`` stands for.

        Raises:
            HarnessError: as `resolve`, or what follows the name is no number.
            ExportError: a number that the thing refuses.
        """
        name, _, number = text.partition(":")
        make: Callable[..., Any] = self.resolve(name)
        if not number:
            return make
        try:
            parameter = float(number)
            make(parameter)
        except ExportError:
            raise
        except ValueError as error:
            raise HarnessError(f"the {self.what} {name!r} cannot take {number!r}: {error}") from error
        except TypeError as error:
            raise HarnessError(f"the {self.what} {name!r} takes no number; write it without :{number}") from error
        return lambda: make(parameter)


STEP_TABLE = Table("step", STEPS, "qharness.steps")
NOISE_TABLE = Table("noise", NOISES, "qharness.noises")
ENGINE_TABLE = Table("engine", ENGINES, "qharness.engines")
METHOD_TABLE = Table("calibration method", METHODS, "qharness.methods")
TARGET_TABLE = Table("quantisation target", TARGETS, "qharness.targets")
IMPROVEMENT_TABLE = Table("improvement", IMPROVEMENTS, "qharness.improvements")
VARIANT_TABLE = Table("operator variant", VARIANTS, "qharness.variants")
MODEL_TABLE = Table("source of networks", MODELS, "qharness.models")
TRAINED_TABLE = Table("training method", TRAINED, "qharness.trained")
SOURCE_TABLE = Table("data source", SOURCES, "qharness.sources")
ATTACK_TABLE = Table("attack", ATTACKS, "qharness.attacks")


def import_target(what: str, target: str, extra: str | None) -> Any:
    """Import ``module:attribute``; a missing package becomes the line that installs it."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").split(".")[0] in ("engines", "noise", "exporters", "harness"):
            raise
        raise EngineUnavailable(f"{what} needs the package {error.name!r}: pip install 'qharness[{extra}]'") from error


def step_function(step: Step) -> StepFunction:
    """The function that a step's description determines.

    Raises:
        HarnessError: no such step, or parameters that its factory does not take.
        EngineUnavailable, Unavailable: it needs a package or hardware that is not here.
    """
    factory = STEP_TABLE.resolve(step.row)
    try:
        function = cast(StepFunction, factory(**step.params))
    except Unavailable:
        raise
    except (TypeError, ValueError) as error:
        raise HarnessError(f"the step {step.row} refuses {dict(step.params)}: {error}") from error
    return _checked(function) if step.stage == "sensor" else function


def spelt_out(step: Step) -> Step:
    """The step with every default of its factory as a parameter, so that equal steps have equal descriptions."""
    parameters = inspect.signature(STEP_TABLE.resolve(step.row)).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return replace(step, params={**defaults, **step.params})


def _checked(corruption: StepFunction) -> StepFunction:
    def apply(picture: Any, rng: np.random.Generator) -> Any:
        check_picture(picture)
        return corruption(picture, rng)

    return apply


def noise_settings(name: str) -> Mapping[str, Setting]:
    """The settings of a noise: name -> what each does to a pipeline; ``None`` stands for nothing at all."""
    return cast("Mapping[str, Setting]", NOISE_TABLE.resolve(name))


def attack_from_text(text: str, budget: Budget) -> Attack:
    """The attack that a text such as ``pgd:steps=40`` stands for, built in or a plug-in's.

    Raises:
        HarnessError: no such attack.
        NoiseError: it does not take this budget or these parameters.
        EngineUnavailable: a package is missing.
    """
    return attack_from_name(text, budget, ATTACK_TABLE.resolve)


def attack_needs(text: str) -> str:
    """What the attack that a text stands for needs of a model; a plug-in's factory says so by an attribute ``needs``.

    Raises:
        HarnessError: no such attack.
    """
    name = text.partition(":")[0]
    factory = ATTACK_TABLE.resolve(name)
    return ATTACKS[name].needs if name in ATTACKS else str(factory.needs)


class OpenTwin(Protocol):
    """`harness.adversarial.twins.TwinModel`."""

    def __call__(self, name: str, artifact: Artifact, pipeline: Pipeline, batch: int) -> Any: ...


def twin_opener() -> OpenTwin:
    """What makes the differentiable twin of a file; it needs torch."""
    return cast(OpenTwin, import_target("an attack by gradients", "harness.adversarial.twins:TwinModel", "torch"))


def missing_data(noise: str) -> MissingData | None:
    """What a noise needs and this machine lacks, or ``None``."""
    try:
        for step in noise_settings(noise).values():
            # A swap takes what it does not name from the pipeline, so alone it makes no function.
            if isinstance(step, Step) and step.stage == "sensor":
                step_function(step)
    except HarnessError as error:
        if isinstance(error.__cause__, MissingData):
            return error.__cause__
        raise
    return None


def artifact_from_model(path: Path, trust: bool = False) -> Artifact:
    """A model file of any format, with what its sidecar declares.

    Args:
        trust: take a file that is not the one its sidecar describes.

    Raises:
        ArtifactError: no such file, or one that cannot be used.
        EngineUnavailable: a package that reads its format is missing.
    """
    row = FORMATS[format_of(path)]
    return cast(ReadModel, import_target(f"{path}, {row.about},", row.target, row.extra))(path, trust)


def engines_for(format_name: str) -> tuple[str, ...]:
    """The engines that run a format; the first is the default. Those of plug-ins run ONNX files."""
    plugins = tuple(name for name in ENGINE_TABLE.names() if name not in ENGINES)
    built_in = tuple(name for name, row in ENGINES.items() if format_name in row.formats)
    return (*built_in, *(plugins if format_name == "onnx" else ()))


def check_engine(engine: str, format_name: str, file: str) -> None:
    """See that an engine exists and runs a format.

    Raises:
        HarnessError: it does not; the message names those that do.
    """
    if engine not in ENGINE_TABLE.names():
        raise unknown("engine", engine, ENGINE_TABLE.names())
    fitting = engines_for(format_name)
    if engine not in fitting:
        raise HarnessError(
            f"{file} is {FORMATS[format_name].about}, which {engine} does not run; choose from {', '.join(fitting)}"
        )


def engine_opener(name: str) -> OpenEngine:
    """The function that opens an engine."""
    return cast(OpenEngine, ENGINE_TABLE.resolve(name))


def source_of_pictures(data: str) -> FindPictures:
    """The source that reads a path or pattern, by its ending; a plug-in's name is the ending that it reads."""
    for name in SOURCE_TABLE.names():
        endings = SOURCES[name].endings if name in SOURCES else (f".{name}",)
        if data.lower().rstrip("/").endswith(endings):
            return cast(FindPictures, SOURCE_TABLE.resolve(name))
    return cast(FindPictures, SOURCE_TABLE.resolve("folder"))


def cluster_runner() -> Callable[..., None]:
    """`harness.cluster.run_on_cluster`; it needs Ray."""
    return cast("Callable[..., None]", import_target("--ray", "harness.cluster:run_on_cluster", "ray"))


def engine_certifier(name: str) -> Certify:
    """The function that proves which kernels an engine ran."""
    row = ENGINES[name]
    return cast(Certify, import_target(f"engine {name!r}", row.certify, row.extra))


def linter(target: str) -> Lint:
    """The function that finds what of a file does not suit a target.

    Raises:
        HarnessError: nobody wrote rules for it.
    """
    if target not in LINTERS:
        raise unknown("linter", target, LINTERS)
    return cast(Lint, import_target(f"linter {target!r}", LINTERS[target], None))


def plan_builder(engine: str) -> BuildPlan:
    """The function that builds plans for a row of `engines.BUILDERS`."""
    return cast(BuildPlan, _of_builder(engine, BUILDERS[engine].target))


def plan_comparison(engine: str) -> ComparePlans:
    """The function that names the layers for which several builds chose different kernels."""
    return cast(ComparePlans, _of_builder(engine, BUILDERS[engine].compare))


def _of_builder(engine: str, target: str) -> Any:
    return import_target(f"engine {engine!r}", target, BUILDERS[engine].extra)
