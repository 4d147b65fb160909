"""Weights from files: found in every usual wrapping, refused where they do not fit; what a file holds is not run."""

from __future__ import annotations

import io
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.artifact import sha256_of
from exporters.base import ExportError
from exporters.sources.base import Request
from harness.export import classes_from_option
from harness.exporting import network_loader
from tests.exporters.checkpoints import loaded, prefixed, saved, weights
from tests.exporters.networks import CLASSES, Small

pytestmark = pytest.mark.usefixtures("safetensors")


@pytest.mark.parametrize(
    "content",
    [
        weights(),
        {"state_dict": weights(), "epoch": 3, "optimizer": {}},
        {"model": prefixed("module.")},
        {"net": prefixed("_orig_mod."), "acc": 0.9},
        {"ema": prefixed("module._orig_mod.")},
        {"model_ema": {**prefixed("module."), "n_averaged": torch.tensor(5)}},
        {name: value for name, value in weights().items() if "num_batches" not in name},
        {"epoch": 3, "arch": "small", "state_dict": prefixed("module."), "best_acc1": torch.tensor(71.5)},
        {"model": weights(), "optimizer": {}, "args": Namespace(lr=0.1, model="small", output_dir=None)},
        {"state_dict": weights(), "accuracy": np.float64(0.9), "loss": np.float32(1.5), "step": np.int64(3)},
        {"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(CLASSES)}, "global_step": 3},
        {"state_dict": {"criterion.weight": torch.ones(CLASSES), **prefixed("module.model.")}},
    ],
    ids=[
        *("bare", "state_dict", "parallel", "compiled", "both", "averaged", "uncounted"),
        *("PyTorch's ImageNet example", "torchvision's reference", "NumPy's scores", "Lightning with a loss", "deeper"),
    ],
)
def test_weights_are_found_in_the_usual_wrappings(content: object, tmp_path: Path) -> None:
    state = loaded(saved(tmp_path, content)).module.state_dict()
    for name, value in weights().items():
        assert "num_batches" in name or torch.equal(state[name], value), name


def test_scores_that_numpy_1_wrote_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": weights(), "loss": np.float32(1)}, path, _use_new_zipfile_serialization=False)
    now, before = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    content = path.read_bytes()
    other = content.replace(now, before) if now in content else content.replace(before, now)
    assert other != content
    path.write_bytes(other)
    assert torch.equal(loaded(path).module.state_dict()["fc.weight"], weights()["fc.weight"])


def test_what_is_left_out_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    other = {f"teacher.{name}": value + 1 for name, value in weights().items()}
    network = loaded(saved(tmp_path, {"state_dict": {**other, **prefixed("model.")}}))
    assert torch.equal(network.module.state_dict()["fc.bias"], weights()["fc.bias"])
    assert "the weights under 'model.' are taken; left out: teacher.conv.weight" in network.notes[0]
    assert "and 2 more" in network.notes[0]


def test_a_score_beside_weights_under_an_unusual_name_is_not_taken_for_them(tmp_path: Path) -> None:
    path = saved(tmp_path, {"backbone": weights(), "best_acc1": torch.tensor(71.5)})
    with pytest.raises(ExportError, match="no weights under the usual names; it has backbone, best_acc1"):
        loaded(path)
    assert torch.equal(loaded(path, entry="backbone").module.state_dict()["fc.bias"], weights()["fc.bias"])


def test_weights_are_read_from_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights(), tmp_path / "weights.safetensors")
    network = loaded(tmp_path / "weights.safetensors")
    assert torch.equal(network.module.state_dict()["fc.weight"], weights()["fc.weight"])
    assert network.about["file_sha256"] == sha256_of(tmp_path / "weights.safetensors")


def test_of_two_sets_of_weights_one_is_taken_and_the_other_named(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in weights().items()}
    path = saved(tmp_path, {"state_dict_ema": other, "state_dict": weights()})
    network = loaded(path)
    assert torch.equal(network.module.state_dict()["fc.bias"], weights()["fc.bias"])
    assert any("under 'state_dict_ema'; --entry KEY takes others" in note for note in network.notes)
    averaged = loaded(path, entry="state_dict_ema").module.state_dict()
    assert torch.equal(averaged["fc.bias"], other["fc.bias"])
    with pytest.raises(ExportError, match="no entry 'ema'; it has state_dict_ema, state_dict"):
        loaded(path, entry="ema")


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    content = {"state_dict": weights(), "note": Trap(marker)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Trap(marker)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ExportError, match="nothing in it was run"):
        loaded(path)
    assert not marker.exists()
    with io.BytesIO(pickle.dumps(Trap(marker))) as file:
        pickle.load(file)
    assert marker.exists()


def test_a_whole_network_in_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"would call tests\.exporters\.networks\.Small"):
        loaded(saved(tmp_path, Small()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a checkpoint of PyTorch"),
        (b"\xff\xd8\xff\xe0 a JPEG", "is not a checkpoint of PyTorch"),
        (b"PK\x03\x04 half a zip", "is not a checkpoint of PyTorch"),
        ([1, 2], "holds list; expected the weights of a network"),
        ({"epoch": 3, "optimizer": {}}, "no weights under the usual names; it has epoch, optimizer"),
        ({"model": {"lr": 0.1}}, "no weights under the usual names; it has model"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ExportError, match=message):
        loaded(path)


def test_half_a_file_of_weights_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, weights())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExportError, match="is not a checkpoint of PyTorch"):
        loaded(path)
    with pytest.raises(ExportError, match=r"there is no checkpoint .*other\.pt"):
        loaded(tmp_path / "other.pt")
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="is not a file of safetensors"):
        loaded(tmp_path / "weights.safetensors")


def test_no_wrong_byte_of_a_checkpoint_is_a_bug(tmp_path: Path) -> None:
    """Of the older format, where all that the file says is in its first part."""
    from exporters.sources.state_dict import read_state

    path = tmp_path / "weights.pt"
    torch.save(weights(), path, _use_new_zipfile_serialization=False)
    right = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place, value in zip(rng.integers(0, 1500, 150), rng.integers(0, 256, 150), strict=True):
        path.write_bytes(right[:place] + bytes([value]) + right[place + 1 :])
        try:
            read_state(path)
        except ExportError:
            refused += 1
    assert refused > 75


def test_missing_and_extra_weights_are_listed(tmp_path: Path) -> None:
    content = {name: value for name, value in weights().items() if not name.startswith("bn.")}
    content["head.weight"] = torch.zeros(2, 2)
    content["conv.weight"] = torch.zeros(8, 3, 5, 5)
    with pytest.raises(ExportError) as caught:
        loaded(saved(tmp_path, content))
    message = str(caught.value)
    assert "4 are missing: bn.weight, bn.bias, bn.running_mean, bn.running_var" in message
    assert "1 are too many: head.weight" in message
    assert "conv.weight [8, 3, 5, 5] for [8, 3, 3, 3]" in message


def test_a_few_of_many_wrong_weights_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"102 are missing: conv1\.weight, .* and \d+ more"):
        loaded(saved(tmp_path, {"a.b": torch.zeros(1)}), "torchvision:resnet18")


def test_half_precision_weights_become_float32_and_it_is_said(tmp_path: Path) -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights().items()}
    network = loaded(saved(tmp_path, halves))
    assert network.module.state_dict()["fc.weight"].dtype == torch.float32
    assert any("7 in float16 of the 7 tensors" in note for note in network.notes)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_codes_are_not_taken_for_weights(kind: torch.dtype, tmp_path: Path) -> None:
    state = weights()
    state["fc.weight"] = state["fc.weight"].to(kind)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(ExportError, match=rf"codes for 1 weights of a float network: fc\.weight in {name}"):
        loaded(saved(tmp_path, state))


def test_the_network_gets_the_classes_of_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nhorse\n")
    trained = network_loader("torchvision")(Request("squeezenet1_1", classes=3, untrained=True))
    path = saved(tmp_path, trained.module.state_dict())
    names = classes_from_option(str(tmp_path / "names.txt"))
    network = loaded(path, "torchvision:squeezenet1_1", classes=names)
    assert network.classes == ("cat", "dog", "horse")
    network = loaded(path, "torchvision:squeezenet1_1")
    assert network.module(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert any("has 3 classes, and so has the network" in note for note in network.notes)
    with pytest.raises(ExportError, match=r"2 have another shape: classifier\.1\.weight \[3, 512, 1, 1\] for \[4"):
        loaded(path, "torchvision:squeezenet1_1", classes=4)
    with pytest.raises(ExportError, match=r"2 have another shape: fc\.weight \[3, 8\] for \[5, 8\]"):
        loaded(saved(tmp_path, weights(3)))
