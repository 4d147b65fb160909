"""Recipe: what the user asked for, with every default made explicit. TOML in, one frozen object out.

A recipe holds exactly what changes results. How fast they are computed (workers, batch) is not in it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from engines.base import EngineOptions
from exporters.base import PER_CHANNEL, Quantisation
from harness.errors import HarnessError, unknown
from harness.sources.storage import is_url
from harness.toml_file import object_from_table, table_from_toml

DEFAULT_NOISES = (
    "clean",
    "gaussian_noise",
    "impulse_noise",
    "defocus_blur",
    "brightness",
    "jpeg_compression",
    "resize:nearest",
    "resize:bilinear",
    "resize:bicubic",
    "resize:area",
)


# The forms of a corrupted picture.
IN_MEMORY, STORED = "in-memory", "stored"
FORMS = (IN_MEMORY, STORED)


@dataclass(frozen=True)
class Recipe:
    """One run.

    Args:
        model: an ONNX file.
        data: the pictures to score, as any row of `harness.sources.SOURCES` reads them: a folder with one folder per
            class, a .csv, .tar or .parquet files, or a URL of any of these.
        labels: a file with the labels of ``data`` (`harness.sources.label_file`); "" where it has labels itself.
        calibrate: other pictures to calibrate on, with or without labels; "" calibrates on pictures of ``data``,
            which are then not scored.
        calibration_pictures: how many pictures to calibrate on, at most; never more than a fifth of ``data``.
        calibration: a file of ``qharness calibrate`` with ranges that were measured before, instead of ``calibrate``.
        calibration_method: row of `exporters.METHODS`, with its number ("percentile:99.9"); "" for "minmax", or for
            that of the file.
        calibration_noise: noises under which every picture is calibrated on, as in ``noise``.
        calibration_overlap: whether pictures may be calibrated on and scored too; the report then says so.
        preprocess: a preset of `noise.presets`, or "" for what the model's sidecar declares.
        noise: noises, each ``NAME`` (all its settings) or ``NAME:SETTING``.
        corruption_form: "in-memory", or "stored": every corrupted picture goes through a JPEG of quality 85, as
            those of the published ImageNet-C did.
        imagenet_c: the folder of a published or generated ImageNet-C, ``NAME/SEVERITY/CLASS/FILE``: corrupted
            pictures are read from there; "" generates them.
        frost_overlays: the folder of ImageNet-C's photographs of frost; "" looks in ``imagecorruptions``.
        adversarial: folders of adversarial sets (`harness.adversarial.sets`), or of several; each is a condition.
        engines: engines, each ``NAME`` (all versions) or ``NAME:VERSION``.
        engine_threads: threads inside one call of an engine.
        engine_optimisation: how far a runtime rewrites the graph, one of `engines.base.OPTIMISATIONS`.
        engine_arena: whether a runtime keeps freed memory for its next call.
        engine_transfers: what reaches a GPU, row of `engines.cuda.TRANSFERS`; "" for the first that is installed.
        engine_cuda_graph: whether a GPU is given the whole network at once.
        weights: "per-channel" or "per-tensor": how many scales a quantised weight has.
        weight_bits: 8, 7, or 0 for 7 where this processor's sums of two products saturate.
        activations: "symmetric", "asymmetric", or "" for what suits each engine.
        keep_float: patterns of names of nodes that stay in float, as a shell matches file names.
        improve: rows of `exporters.IMPROVEMENTS`, with their numbers ("smooth-quant:0.5"), that help quantisation.
        limit: score at most this many pictures, drawn with the seed; 0 scores all.
        seed: of every random draw.
    """

    model: str
    data: str
    labels: str = ""
    calibrate: str = ""
    calibration_pictures: int = 100
    calibration: str = ""
    calibration_method: str = ""
    calibration_noise: tuple[str, ...] = ("clean",)
    calibration_overlap: bool = False
    preprocess: str = ""
    noise: tuple[str, ...] = DEFAULT_NOISES
    corruption_form: str = IN_MEMORY
    imagenet_c: str = ""
    frost_overlays: str = ""
    adversarial: tuple[str, ...] = ()
    engines: tuple[str, ...] = ("ort-cpu",)
    engine_threads: int = 1
    engine_optimisation: str = "all"
    engine_arena: bool = True
    engine_transfers: str = ""
    engine_cuda_graph: bool = False
    weights: str = PER_CHANNEL
    activations: str = ""
    weight_bits: int = 0
    keep_float: tuple[str, ...] = ()
    improve: tuple[str, ...] = ()
    limit: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("calibration_pictures", "limit", "seed"):
            if getattr(self, name) < 0:
                raise HarnessError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.corruption_form not in FORMS:
            raise unknown("corruption_form", self.corruption_form, FORMS)
        if self.imagenet_c and self.corruption_form == STORED:
            raise HarnessError("the pictures of imagenet_c are stored already; leave corruption_form out")
        if self.calibrate and self.calibration:
            raise HarnessError("give either pictures to calibrate on (calibrate) or ranges (calibration), not both")
        if self.improve and self.calibration:
            raise HarnessError(
                "improvements look at pictures, and some change the model that is calibrated: give pictures to "
                "calibrate on (calibrate) instead of ranges (calibration)"
            )
        quantisation_from_recipe(self, "")
        options_from_recipe(self)
        for name in ("noise", "engines", "calibration_noise"):
            if not getattr(self, name):
                raise HarnessError(f"a recipe needs at least one name under {name!r}; leave it out for all")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; its paths are relative to the recipe's own folder.

    Raises:
        HarnessError: not TOML, an unknown key, a missing key, a value of the wrong type.
    """
    recipe = recipe_from_table(table_from_toml(path, "a recipe"), str(path))
    return resolved(recipe, path.parent)


def recipe_from_table(table: dict[str, Any], where: str) -> Recipe:
    """A recipe from parsed TOML, every key and type checked."""
    return object_from_table(Recipe, table, "recipe", where)


def toml_from_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, every default written out; `read_recipe` reads it back."""
    table = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(recipe).items()}
    return tomli_w.dumps(table)


def resolved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths, so that it means the same from anywhere; URLs stay as they are."""

    def absolute(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve()) if text and not is_url(text) else text

    return dataclasses.replace(
        recipe,
        model=absolute(recipe.model),
        data=absolute(recipe.data),
        labels=absolute(recipe.labels),
        calibrate=absolute(recipe.calibrate),
        calibration=absolute(recipe.calibration),
        imagenet_c=absolute(recipe.imagenet_c),
        frost_overlays=absolute(recipe.frost_overlays),
        adversarial=tuple(absolute(each) for each in recipe.adversarial),
    )


def quantisation_from_recipe(recipe: Recipe, target: str) -> Quantisation:
    """What of the model becomes integers for a target.

    Raises:
        ExportError: a wish that no target has.
    """
    return Quantisation(
        target,
        recipe.weights,
        recipe.activations,
        recipe.weight_bits,
        recipe.keep_float,
        improve=recipe.improve,
    )


def options_from_recipe(recipe: Recipe, *, integer_kernels: bool = True) -> EngineOptions:
    """How an engine is opened.

    Raises:
        EngineError: a wish that no engine has.
    """
    return EngineOptions(
        integer_kernels,
        recipe.engine_threads,
        recipe.engine_optimisation,
        recipe.engine_arena,
        recipe.engine_transfers,
        recipe.engine_cuda_graph,
    )
