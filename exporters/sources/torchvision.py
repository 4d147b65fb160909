"""torchvision's classifiers, with its published weights: `torchvision:NAME[@WEIGHTS]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.transforms._presets import ImageClassification

from engines.artifact import sha256_of
from exporters.base import ExportError
from exporters.sources.base import (
    IMAGENET_1K,
    RANDOM,
    Network,
    Request,
    no_such,
    picture_pipeline,
)
from exporters.sources.state_dict import read_state
from exporters.sources.weights import drawn, with_a_last_layer
from noise.base import Pipeline
from noise.resize import PILLOW_FILTERS

# With published weights these normalise once more: they were trained on levels from -1 to 1. Only their layout is in a
# file of weights, so that has to be assumed of a checkpoint.
NORMALISE_AGAIN = ("googlenet", "inception_v3")

ALL_NAMES = "https://docs.pytorch.org/vision/stable/models.html"


def load(request: Request) -> Network:
    """A network by ``torchvision.models.get_model``.

    Args:
        request: its name is ``NAME``, for the default weights, ``NAME@WEIGHTS`` or ``NAME@random``.

    Raises:
        ExportError: no such network or weights; weights that are neither here nor to be had.
    """
    name, _, wanted = request.name.partition("@")
    known = list_models(module=torchvision.models)
    if name not in known:
        raise no_such("network of torchvision", name, known, ALL_NAMES)
    offered = get_model_weights(name)
    if wanted and wanted not in (*offered.__members__, RANDOM):
        raise no_such(f"set of weights for {name}", wanted, [*offered.__members__, RANDOM], ALL_NAMES)
    weights = offered.__members__.get("DEFAULT" if wanted in ("", RANDOM) else wanted)
    if request.untrained or wanted == RANDOM:
        return _without_weights(name, request, weights)
    if weights is None:
        raise ExportError(f"torchvision has no weights for {name}; draw them: torchvision:{name}@{RANDOM}")
    if not weights.meta["categories"]:
        raise ExportError(f"the weights {weights} are for features, and have no classes; take others of {name}")
    if request.classes not in (0, len(weights.meta["categories"])):
        raise ExportError(
            f"the weights {weights} have {len(weights.meta['categories'])} classes, not {request.classes}; give your "
            f"own with checkpoint:FILE --arch torchvision:{name}"
        )
    file = _fetched(weights)
    read_state(file)  # a file with code in it ends here: torchvision itself would run that
    module = get_model(name, weights=weights, progress=False)
    about = {
        "weights": str(weights),
        "url": weights.url,
        "file_sha256": sha256_of(file),
    }
    return Network(
        module.eval(),
        {"library": f"torchvision {torchvision.__version__}", **about},
        pipeline_from_weights(weights),
        label_set=label_set(weights),
    )


def label_set(weights: Any) -> str:
    """`IMAGENET_1K` where that is what the weights were measured on.

    Their own names of the classes are not taken: two pairs of ImageNet's classes have the same name there.
    """
    return IMAGENET_1K if "ImageNet-1K" in weights.meta["_metrics"] else ""


def _without_weights(name: str, request: Request, weights: Any) -> Network:
    options: dict[str, Any] = {"num_classes": request.classes} if request.classes else {}
    notes: tuple[str, ...] = ()
    if name in NORMALISE_AGAIN:
        options["init_weights"] = False  # else minutes of drawing, and a warning
        options["transform_input"] = request.untrained
        notes = (
            f"{name} normalises its input once more (transform_input=True), as torchvision has it with its own weights",
        )
    module = drawn(request.seed, lambda: with_a_last_layer(get_model(name, weights=None, **options)))
    pipeline = None if weights is None else pipeline_from_weights(weights)
    about = {"library": f"torchvision {torchvision.__version__}"}
    if request.untrained:
        declared = {} if weights is None else {"preprocessing_of": str(weights)}
        return Network(module.eval(), about | declared, pipeline, notes=notes)
    note = f"the weights are drawn with seed {request.seed}: the network has learnt nothing"
    return Network(module.eval(), {**about, "weights": RANDOM, "seed": request.seed}, pipeline, notes=(note,))


def pipeline_from_weights(weights: Any) -> Pipeline:
    """What ``weights.transforms()`` does with a picture of Pillow, whose resize always filters (antialias)."""
    preset = weights.transforms()
    if not isinstance(preset, ImageClassification):
        raise ExportError(f"the weights {weights} come with {type(preset).__name__}; expected ImageClassification")
    interpolation = preset.interpolation.value
    if interpolation not in PILLOW_FILTERS:
        raise ExportError(f"the weights {weights} resize with {interpolation!r}, which Pillow does not have")
    resize = {"geometry": "shorter_side", "size": preset.resize_size[0], "filter": interpolation}
    return picture_pipeline(resize, preset.crop_size[0], preset.mean, preset.std)


def _fetched(weights: Any) -> Path:
    """The file of some weights, downloaded if need be, with the hash that its name states."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / str(weights.url).rsplit("/", 1)[-1]
    stated = torch.hub.HASH_REGEX.search(file.name)
    prefix = stated.group(1) if stated else ""
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(file), prefix or None, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise ExportError(
                f"the weights {weights} are not on this machine, and cannot be downloaded ({error}). Download "
                f"{weights.url} elsewhere and put it into {folder}"
            ) from error
    if not sha256_of(file).startswith(prefix):
        raise ExportError(f"{file} is not what its name states: its SHA-256 does not begin with {prefix}; delete it")
    return file
