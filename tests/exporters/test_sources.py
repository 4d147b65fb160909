"""Networks from libraries: the right weights, their own preprocessing and classes, or what would be right."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from exporters.base import ExportError
from exporters.sources.base import IMAGENET_1K, Request
from harness.demo.embedded import demo_recipe
from harness.export import ExportJob, network_from_job
from harness.exporting import network_loader
from harness.labels import imagenet_wordnet_ids
from harness.registry import step_function
from noise.base import Pipeline
from tests.conftest import missing
from tests.exporters.checkpoints import loaded, saved, weights

RESNET = "torchvision:resnet18"
PUBLISHED = "resnet18-f37072fd.pth"


pytestmark = pytest.mark.usefixtures("safetensors")


@pytest.fixture
def _timm(request: pytest.FixtureRequest) -> None:
    if find_spec("timm") is None:
        missing(request, "torch", "timm is not installed: pip install 'qharness[timm]'")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's cache of weights, empty, and no network: a double of the download that fails as without one."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("spec", "arch", "message"),
    [
        ("torchvision:resnet19", "", "no network of torchvision 'resnet19'; the nearest are resnet18"),
        ("torchvision:resnet18@IMAGENET1K_V9", "", "the nearest are IMAGENET1K_V1"),
        ("torchvision:vgg16@IMAGENET1K_FEATURES", "", "are for features, and have no classes"),
        ("torchvison:resnet18", "", "did you mean 'torchvision'"),
        ("resnet18", "", "expected SOURCE:NAME"),
        ("python:tests.exporters.networks:Smal", "", "the nearest are Small"),
        ("python:tests.exporters.network:Small", "", "there is no module 'tests.exporters.network'"),
        ("python:tests.exporters.networks", "", "expected python:MODULE:FACTORY"),
        ("python:tests.exporters.networks:nothing", "", "made str; expected a torch.nn.Module"),
        ("python:tests.exporters.networks:failing", "", "failed: RuntimeError: the weights are elsewhere"),
        ("checkpoint:x.pt", "", "with no --arch"),
        ("checkpoint:x.pt", "checkpoint:y.pt", "a checkpoint is no network"),
        (RESNET, RESNET, "--arch says whose weights a checkpoint holds"),
    ],
)
def test_wrong_specs_are_refused_with_what_would_be_right(spec: str, arch: str, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        network_from_job(ExportJob(spec, arch=arch))
    assert type(caught.value).__name__ in ("ExportError", "HarnessError")


@pytest.mark.usefixtures("_timm")
@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet17", "the nearest are resnet"), ("resnet18.a1_in1", "the nearest are a1_in1k"), ("resnet18@b", "a1_in1k")],
)
def test_wrong_names_of_timm_are_refused(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        network_from_job(ExportJob(f"timm:{name}"))


def test_without_a_network_the_url_and_the_folder_are_named(hub: Path) -> None:
    with pytest.raises(ExportError) as caught:
        network_from_job(ExportJob(RESNET))
    assert f"Download https://download.pytorch.org/models/{PUBLISHED} elsewhere and put it into {hub}" in str(
        caught.value
    )


@pytest.mark.usefixtures("_timm")
def test_weights_of_timm_that_were_put_by_hand_are_found(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    import exporters.sources.timm as source

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(source, "hf_hub_download", unreachable)
    with pytest.raises(ExportError) as caught:
        network_from_job(ExportJob("timm:resnet18"))
    url = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    found = re.search(rf"Download {url} elsewhere and put it into {hub} as (\S+)", str(caught.value))
    assert found
    hub.mkdir(parents=True, exist_ok=True)
    state = network_loader("timm")(Request("resnet18", seed=3, untrained=True)).module.state_dict()
    save_file(state, hub / found.group(1))
    network = network_from_job(ExportJob("timm:resnet18"))
    assert torch.equal(network.module.state_dict()["fc.weight"], state["fc.weight"])
    assert network.about["weights"] == "resnet18.a1_in1k"
    assert network.classes == imagenet_wordnet_ids()


def test_a_published_file_that_is_another_is_refused(hub: Path) -> None:
    hub.mkdir(parents=True)
    torch.save(weights(), hub / PUBLISHED)
    with pytest.raises(ExportError, match="its SHA-256 does not begin with f37072fd; delete it"):
        network_from_job(ExportJob(RESNET))


def test_random_weights_are_declared_and_depend_on_the_seed() -> None:
    job = ExportJob("torchvision:squeezenet1_1@random")
    one, same, other = (network_from_job(replace(job, seed=seed)) for seed in (1, 1, 2))
    first, again, another = (each.module.state_dict()["features.0.weight"] for each in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, another)
    assert (one.about["weights"], one.about["seed"]) == ("random", 1)
    assert "has learnt nothing" in one.notes[0]


def picture() -> tuple[bytes, Image.Image]:
    """One of the embedded photographs, 290 x 334 pixels or so."""
    path = sorted(Path(demo_recipe().data).glob("*/*.jpg"))[0]
    return path.read_bytes(), Image.open(path).convert("RGB")


def through(pipeline: Pipeline, data: bytes) -> np.ndarray:
    value: object = data
    for step in pipeline.steps:
        value = step_function(step)(value, np.random.default_rng(0))
    return np.asarray(value)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "IMAGENET1K_V1"),  # 256 to 224, bilinear
        ("resnet50", "IMAGENET1K_V2"),  # 232 to 224
        ("efficientnet_b0", "IMAGENET1K_V1"),  # bicubic
        ("efficientnet_b1", "IMAGENET1K_V1"),  # 256 to 240
        ("swin_t", "IMAGENET1K_V1"),
        ("inception_v3", "IMAGENET1K_V1"),  # 342 to 299
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),  # 384, no border
    ],
)
def test_declared_preprocessing_gives_the_bits_of_torchvisions_transforms(name: str, weights: str) -> None:
    from torchvision.models import get_model_weights

    from exporters.sources.torchvision import pipeline_from_weights

    chosen = get_model_weights(name)[weights]
    data, opened = picture()
    assert np.array_equal(through(pipeline_from_weights(chosen), data), chosen.transforms()(opened).numpy())


def test_every_published_classifier_of_torchvision_has_a_preprocessing() -> None:
    from torchvision import models

    from exporters.sources.torchvision import label_set, pipeline_from_weights

    names = models.list_models(module=models)
    assert len(names) >= 80
    for name in names:
        for chosen in models.get_model_weights(name):
            pipeline_from_weights(chosen)
            assert label_set(chosen) == IMAGENET_1K
            assert len(chosen.meta["categories"] or ()) == (0 if "FEATURES" in chosen.name else 1000)


@pytest.mark.usefixtures("_timm")
def test_classes_are_in_the_order_that_timm_has_too() -> None:
    from timm.data import ImageNetInfo

    assert tuple(ImageNetInfo("imagenet-1k").label_names()) == imagenet_wordnet_ids()


@pytest.mark.usefixtures("_timm")
@pytest.mark.parametrize("name", ["resnet18", "regnetx_006", "vit_base_patch16_224", "resnetv2_50", "efficientnet_b3"])
def test_declared_preprocessing_gives_the_bits_of_timms_transforms(name: str) -> None:
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    from exporters.sources.timm import pipeline_from_config

    config = get_pretrained_cfg(name).to_dict()
    transform = create_transform(**resolve_data_config(pretrained_cfg=config), is_training=False)
    data, opened = picture()
    assert np.array_equal(through(pipeline_from_config(config), data), transform(opened).numpy())


@pytest.mark.usefixtures("_timm")
@pytest.mark.parametrize(("size", "resized"), [(0, 235), (224, 235), (288, 288), (256, 269)])
def test_the_size_of_testing_is_said_and_brings_its_own_crop(size: int, resized: int) -> None:
    """timm's resnet50.a1_in1k: trained on 224 of 235 pixels (95 %), tested on 288 of 288 (100 %)."""
    network = network_from_job(ExportJob("timm:resnet50@random", size=size))
    assert network.pipeline is not None
    assert network.pipeline.step_of("resize", "").params["size"] == resized
    assert network.pipeline.step_of("crop", "").params["size"] == (size or 224)
    assert "with 224 pixels; their authors test with 288, the crop 100% of the picture: --size 288" in network.notes[1]


def test_another_size_changes_the_resize_in_proportion() -> None:
    network = network_from_job(ExportJob("torchvision:squeezenet1_1@random", size=160))
    assert network.pipeline is not None
    sizes = [network.pipeline.step_of(stage, "").params["size"] for stage in ("resize", "crop")]
    assert sizes == [183, 160]


@pytest.mark.parametrize(
    ("wanted", "named", "size"),
    [("@IMAGENET1K_V1", "IMAGENET1K_V1", 256), ("@IMAGENET1K_V2", "IMAGENET1K_V2", 232), ("", "IMAGENET1K_V2", 232)],
)
def test_an_architecture_has_the_preprocessing_of_the_weights_that_are_named(
    wanted: str, named: str, size: int, tmp_path: Path
) -> None:
    arch = f"torchvision:regnet_y_400mf{wanted}"
    trained = network_loader("torchvision")(Request("regnet_y_400mf", untrained=True))
    network = loaded(saved(tmp_path, trained.module.state_dict()), arch)
    assert network.pipeline is not None
    assert network.pipeline.step_of("resize", "").params["size"] == size
    assert f"the published weights RegNet_Y_400MF_Weights.{named};" in network.notes[0]


def test_weights_of_an_architecture_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no set of weights for resnet18 'NONSENSE'; there are IMAGENET1K_V1"):
        loaded(saved(tmp_path, weights()), f"{RESNET}@NONSENSE")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_checkpoint_of_a_network_that_normalises_again_does_so_here(name: str, tmp_path: Path) -> None:
    trained = network_loader("torchvision")(Request(name, untrained=True))
    network = loaded(saved(tmp_path, trained.module.state_dict()), f"torchvision:{name}")
    assert network.module.transform_input is True
    assert any(f"{name} normalises its input once more" in note for note in network.notes)
    assert network_from_job(ExportJob(f"torchvision:{name}@random")).module.transform_input is False


def test_last_layer_of_zeros_is_drawn() -> None:
    from exporters.sources.weights import with_a_last_layer

    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    assert with_a_last_layer(nn.Sequential(nn.Linear(2, 4), layer))[1].weight.any()


def test_preprocessing_of_a_checkpoint_is_assumed_aloud_or_named(tmp_path: Path) -> None:
    trained = network_loader("torchvision")(Request("squeezenet1_1", untrained=True))
    path = saved(tmp_path, trained.module.state_dict())
    assumed = loaded(path, "torchvision:squeezenet1_1").notes[0]
    assert "assumed to be that of the published weights SqueezeNet1_1_Weights.IMAGENET1K_V1;" in assumed
    named = loaded(path, "torchvision:squeezenet1_1", preprocess="tensorflow")
    assert named.notes == ()
    assert named.pipeline is not None
    assert named.pipeline.step_of("normalise", "").params["scale"] == 127.5
