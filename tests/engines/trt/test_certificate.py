"""The certificate of a plan, from the inspector's JSON of three versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.base import EngineError
from engines.building import BuildOptions
from engines.certificate import Certificate
from engines.macs import Layer
from engines.trt.certificate import certificate_from_inspector, changed_kernels, layers_from_inspector
from engines.trt.record import PlanRecord, Station

FOLDER = Path(__file__).parent / "inspector"


def layer(name: str, macs: int, quantised: bool = True, operator: str = "Conv") -> Layer:
    kind = "int8" if quantised else "float"
    return Layer(name, operator, macs, kind, kind, "quantised", shared_input=False, shared_output=False)


LAYERS = (layer("conv1", 600), layer("conv2", 300), layer("conv3", 90, quantised=False), layer("fc", 10, True, "Gemm"))


def record(layers: tuple[Layer, ...] = LAYERS) -> PlanRecord:
    station = Station("10.16.1.11", "NVIDIA Double 9000", "9.0", "13.0", None)
    return PlanRecord("m.onnx", "0" * 64, "1" * 64, station, BuildOptions(), (), None, (1, 1, 1), ("int8",), layers)


def certificate(version: str) -> Certificate:
    return certificate_from_inspector((FOLDER / f"{version}.json").read_text(), record())


def reasons(found: Certificate) -> dict[str, str | None]:
    return {each.layer: each.reason for each in found.layers}


def test_up_to_8_layers_are_known_by_the_names_joined_in_theirs() -> None:
    found = certificate("8.6")
    assert {each.layer: each.input_types for each in found.layers} == {
        "conv1": ("int8", "int8"),
        "conv2": ("int8", "int8"),
        "conv3": ("float", "float"),
        "fc": (),
    }
    assert found.integer_macs == 900
    assert found.layers[0].kernel == "sm86_xmma_fprop_implicit_gemm_i8i8_i8i32_f32"
    assert reasons(found) == {
        "conv1": None,
        "conv2": None,
        "conv3": "it is not quantised in the file",
        "fc": "it is inside a fused region, whose types cannot be seen from outside",
    }


def test_a_layer_that_nothing_names_is_not_counted() -> None:
    found = certificate_from_inspector((FOLDER / "8.6.json").read_text(), record((layer("elsewhere", 5),)))
    assert reasons(found) == {"elsewhere": "no layer of the engine names it"}
    assert found.integer_fraction == 0.0


def test_from_10_on_layers_are_known_by_their_metadata() -> None:
    found = certificate("10")
    assert [each.integer for each in found.layers] == [True, True, False, True]
    assert found.integer_fraction == 0.91
    assert found.layers[3].input_types == ("int8", "int8"), "the weight of a gemm is among its constants"


def test_11_tells_format_and_type_apart() -> None:
    found = certificate("11")
    assert [each.input_types for each in found.layers] == [
        ("int8", "int8"),
        ("int8", "int8"),
        ("float8", "float8"),
        (),
    ]
    assert found.evidence["weights_known_by_kernel_name"] == 1, "those of conv2"
    assert reasons(found) == {
        "conv1": None,
        "conv2": None,
        "conv3": "FP8 is a floating-point type, not an integer",
        "fc": "it is inside a fused region, whose types cannot be seen from outside",
    }
    assert found.integer_macs == 900


def test_reformats_and_opaque_regions_are_listed() -> None:
    found = certificate("8.6")
    assert found.evidence["reformats"] == 2
    assert found.evidence["opaque_regions"] == ["{ForeignNode[flatten...fc]}"]
    assert found.other_kernels == {
        "Reformat(float to int8)": 1,
        "Reformat(float16 to float)": 1,
        "Pooling(float)": 1,
        "Myelin(float)": 1,
    }
    assert certificate("11").evidence["opaque_regions"] == ["__myl_MeanFc_myl0_1"]


def test_an_integer_layer_that_tensorrt_left_in_float_says_so() -> None:
    text = json.dumps({"Layers": [entry("conv1", "Half", "Half")]})
    found = certificate_from_inspector(text, record((layer("conv1", 1),)))
    assert found.layers[0].reason == "TensorRT chose a float kernel"
    assert found.integer_fraction == 0.0


def test_int8_weights_alone_are_no_integer_layer() -> None:
    text = json.dumps({"Layers": [entry("conv1", "Half", "Int8")]})
    found = certificate_from_inspector(text, record((layer("conv1", 1),)))
    assert found.layers[0].input_types == ("float16", "int8")
    assert not found.layers[0].integer


def test_int4_weights_are_no_integer_layer() -> None:
    text = json.dumps({"Layers": [{**entry("fc", "Half", "Int4"), "LayerType": "gemm"}]})
    found = certificate_from_inspector(text, record((layer("fc", 1, True, "MatMul"),)))
    assert found.layers[0].reason == "INT4 is weight-only: its kernel computes in float"


def test_a_product_of_two_activations_has_two_inputs() -> None:
    scores = {**entry("scores", "Int8", "Int8"), "LayerType": "MatrixMultiply"}
    del scores["Weights"]
    scores["Inputs"].append({"Name": "keys", "Format/Datatype": "Int8"})
    found = certificate_from_inspector(json.dumps({"Layers": [scores]}), record((layer("scores", 1, True, "MatMul"),)))
    assert found.layers[0].integer


def test_a_fusion_counts_by_the_kernel_that_it_was_built_on() -> None:
    fused = {**entry("fc", "Int8", "Int8"), "LayerType": "fusion", "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32"}
    found = certificate_from_inspector(json.dumps({"Layers": [fused]}), record((layer("fc", 1),)))
    assert found.layers[0].integer
    assert found.evidence["opaque_regions"] == []
    fused["TacticName"] = "pointwise"
    found = certificate_from_inspector(json.dumps({"Layers": [fused]}), record((layer("fc", 1),)))
    assert found.layers[0].reason == "it is inside a fused region, whose types cannot be seen from outside"


@pytest.mark.parametrize(
    ("kernel", "weight"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs", "int8"),
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn_n", "int8"),
        ("sm86_xmma_gemm_f32f32_tf32f32_f32_tn_n", "float"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc", "float16"),
        ("__myl_Fc_0x1", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_kernel_is_named_after_what_it_multiplies(kernel: str, weight: str) -> None:
    told = {**entry("conv1", "Int8", "Int8"), "TacticName": kernel}
    del told["Weights"]
    found = certificate_from_inspector(json.dumps({"Layers": [told]}), record((layer("conv1", 1),)))
    assert found.layers[0].input_types == ("int8", weight)
    assert found.layers[0].integer == (weight == "int8")
    if weight == "unknown":
        assert found.layers[0].reason == "the inspector does not say with which types it computes"


def test_a_layer_is_known_by_its_parameters_too() -> None:
    told = {**entry("conv1", "Int8", "Int8"), "LayerType": "CaskSomething", "ParameterType": "Convolution"}
    assert certificate_from_inspector(json.dumps({"Layers": [told]}), record((layer("conv1", 1),))).layers[0].integer


def test_without_shapes_nothing_is_known() -> None:
    unknown = entry("conv1", "N/A due to dynamic shapes", "Int8")
    found = certificate_from_inspector(json.dumps({"Layers": [unknown]}), record((layer("conv1", 1),)))
    assert found.layers[0].input_types == ("unknown", "int8")
    assert not found.layers[0].integer


def entry(name: str, activation: str, weight: str) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": activation}],
        "Outputs": [{"Name": "y", "Format/Datatype": activation}],
        "Weights": {"Type": weight, "Count": 1},
        "TacticName": f"kernel of {name}",
        "Metadata": f"[ONNX Layer: {name}]",
    }


def test_a_plan_with_names_alone_proves_nothing() -> None:
    with pytest.raises(EngineError, match=r"ProfilingVerbosity\.DETAILED"):
        layers_from_inspector(json.dumps({"Layers": ["conv1", "conv2"]}))
    for text in ("no JSON", "[]", "{}"):
        with pytest.raises(EngineError, match="expected the engine inspector's JSON"):
            layers_from_inspector(text)


def test_builds_are_compared_by_the_kernels_of_their_layers() -> None:
    first = [entry("conv1", "Int8", "Int8"), entry("conv2", "Int8", "Int8")]
    second = [entry("conv1", "Int8", "Int8"), {**entry("conv2", "Int8", "Int8"), "TacticName": "another kernel"}]
    third = [entry("conv1", "Int8", "Int8")]
    texts = [json.dumps({"Layers": layers}) for layers in (first, second, third)]
    assert changed_kernels(texts[:1]) == ()
    assert changed_kernels([texts[0], texts[0]]) == ()
    assert changed_kernels(texts[:2]) == ("conv2",)
    assert changed_kernels([texts[0], texts[2]]) == ("conv2",)
