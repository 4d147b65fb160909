"""timm's classifiers, with its published weights: `timm:NAME[.WEIGHTS]`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg

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

ALL_NAMES = "timm.list_models(), timm.list_pretrained()"
IMAGENET_CLASSES = 1000
WEIGHTS_FILE = "model.safetensors"


def load(request: Request) -> Network:
    """A network by ``timm.create_model``.

    Args:
        request: its name is ``NAME``, for the default weights, ``NAME.WEIGHTS`` (or with @) or ``NAME@random``.

    Raises:
        ExportError: no such network or weights; weights that are neither here nor to be had; a preprocessing that
            no steps of ours do.
    """
    name, _, wanted = request.name.replace(".", "@", 1).partition("@")
    if not timm.is_model(name):
        raise no_such("network of timm", name, timm.list_models(), ALL_NAMES)
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
    untrained = request.untrained or wanted == RANDOM
    if wanted and wanted not in (*tags, RANDOM):
        raise no_such(f"set of weights for {name}", wanted, [*tags, RANDOM], ALL_NAMES)
    full = f"{name}.{wanted}" if wanted and wanted != RANDOM else name
    found = get_pretrained_cfg(full, allow_unregistered=False)
    config = {} if found is None else found.to_dict()
    if untrained:
        return _without_weights(full, request, config)
    if not config.get("num_classes", 1):
        raise ExportError(f"the weights {full} are for features, and have no classes; take others of {name}")
    if not tags:
        raise ExportError(f"timm has no weights for {name}; draw them: timm:{name}@{RANDOM}")
    if request.classes not in (0, config["num_classes"]):
        raise ExportError(
            f"the weights {full} have {config['num_classes']} classes, not {request.classes}; give your own with "
            f"checkpoint:FILE --arch timm:{name}"
        )
    return _with_weights(full, config)


def _with_weights(name: str, config: Mapping[str, Any]) -> Network:
    file, url = _fetched(name, config)
    if file.suffix != ".npz":
        read_state(file)  # a file with code in it ends here
    module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    imagenet = config["num_classes"] == IMAGENET_CLASSES
    about = {"library": f"timm {timm.__version__}", "weights": f"{config['architecture']}.{config['tag']}", "url": url}
    network = Network(
        module.eval(), {**about, "file_sha256": sha256_of(file)}, label_set=IMAGENET_1K if imagenet else ""
    )
    return _prepared(network, config)


def _without_weights(name: str, request: Request, config: Mapping[str, Any]) -> Network:
    options: dict[str, Any] = {"num_classes": request.classes} if request.classes else {}
    module = drawn(request.seed, lambda: with_a_last_layer(timm.create_model(name, pretrained=False, **options)))
    about = {"library": f"timm {timm.__version__}"}
    network = Network(module.eval(), about)
    if request.untrained:
        declared = ".".join(filter(None, (config.get("architecture", name), config.get("tag"))))
        return _prepared(replace(network, about=about | {"preprocessing_of": declared}), config)
    note = f"the weights are drawn with seed {request.seed}: the network has learnt nothing"
    about = {**about, "weights": RANDOM}
    return _prepared(replace(network, about={**about, "seed": request.seed}, notes=(note,)), config)


def _prepared(network: Network, config: Mapping[str, Any]) -> Network:
    """The network with its preprocessing, and with that of testing where it is another: often of larger pictures."""
    pipeline = pipeline_from_config(config)
    tested = pipeline_from_config(config, at_test_size=True)
    if tested == pipeline:
        return replace(network, pipeline=pipeline)
    trained = config["input_size"][-1]
    size = (config.get("test_input_size") or config["input_size"])[-1]
    crop = config.get("test_crop_pct") or config["crop_pct"]
    note = (
        f"the weights were trained with {trained} pixels; their authors test with {size}, the crop {crop:.0%} of the "
        f"picture: --size {size} does so"
    )
    return replace(network, pipeline=pipeline, tested=tested, notes=(*network.notes, note))


def pipeline_from_config(config: Mapping[str, Any], at_test_size: bool = False) -> Pipeline:
    """What ``timm.data.create_transform(**resolve_data_config(...))`` does with a picture of Pillow.

    Args:
        config: of the weights, as timm publishes it.
        at_test_size: with ``test_input_size`` and ``test_crop_pct``, where the config has them.

    Source: ``timm.data.transforms_factory.transforms_imagenet_eval``. The shorter side is ``floor(size / crop_pct)``;
    "squash" makes both sides that long.

    Raises:
        ExportError: a crop mode, shape or filter that no step of ours has.
    """
    said = resolve_data_config(pretrained_cfg=dict(config), use_test_size=at_test_size)
    _, height, width = said["input_size"]
    geometry = {"center": "shorter_side", "squash": "square"}.get(said["crop_mode"])
    if geometry is None or height != width or said["interpolation"] not in PILLOW_FILTERS:
        raise ExportError(
            f"the preprocessing of {config['architecture']} is none that qharness does: size {height} x {width}, crop "
            f"{said['crop_mode']}, interpolation {said['interpolation']}; expected a square, center or squash, and a "
            f"filter of Pillow"
        )
    resized = math.floor(height / said["crop_pct"])
    resize = {"geometry": geometry, "size": resized, "filter": said["interpolation"]}
    return picture_pipeline(resize, height, said["mean"], said["std"])


def _fetched(name: str, config: Mapping[str, Any]) -> tuple[Path, str]:
    """The file of some weights, downloaded if need be, and its URL.

    A file that was put by hand beside torchvision's weights is found there, under the name that the error gives it.
    """
    hub, url = config.get("hf_hub_id"), config.get("url", "")
    remote = config.get("hf_hub_filename") or WEIGHTS_FILE
    url = hf_hub_url(hub, remote) if hub else url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    by_hand = f"timm-{config['architecture']}.{config['tag']}{Path(remote).suffix}"
    file = folder / (by_hand if hub else url.rsplit("/", 1)[-1])
    if file.is_file():
        return file, url
    try:
        if hub:
            return _from_hub(hub, remote), url
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), progress=False)
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ExportError(
            f"the weights {name} are not on this machine, and cannot be downloaded ({reason}). Download {url} "
            f"elsewhere and put it into {folder} as {file.name}"
        ) from error
    return file, url


def _from_hub(hub: str, name: str) -> Path:
    """A file of a repository on the hub, from its cache or downloaded; the cache names large files by their hash."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # it tells of every attempt; the last one is raised
    try:
        file = Path(hf_hub_download(hub, name))
    finally:
        logger.setLevel(before)
    stated = file.resolve().name
    if len(stated) == 64 and sha256_of(file) != stated:
        raise ExportError(f"{file} is not what the hub stored (SHA-256 {stated[:12]}...); delete it")
    return file
