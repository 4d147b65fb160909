"""Building a plan, against the double of each version: what is asked of TensorRT, what is written, what is refused."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from engines.artifact import Artifact, read_sidecar, sha256_of
from engines.base import EngineError
from engines.building import BuildOptions
from engines.cuda.device import Device
from engines.onnx_file import artifact_from_onnx
from engines.trt.record import artifact_from_plan, record_from_artifact
from tests.engines.tiny import Shape, tiny_artifact
from tests.engines.trt.conftest import DEVICE, Install, build, module
from tests.engines.trt.double import CACHE_MAGIC, VERSIONS, Behaviour


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_is_an_artifact_that_inherits_what_its_source_declares(
    version: str, install: Install, quantised: Artifact
) -> None:
    install(version)
    made = build(quantised).artifact
    plan = artifact_from_plan(made.path)
    assert plan.format == "plan"
    assert plan.sha256 == sha256_of(made.path)
    for kept in ("input", "output", "output_kind", "quantised", "preprocessing", "classes"):
        assert getattr(plan, kept) == getattr(quantised, kept), kept
    record = record_from_artifact(plan)
    assert record.source == "m.onnx"
    assert record.source_sha256 == quantised.sha256
    assert record.integers == ("int8",)
    assert record.batch == (1, 8, 64)
    assert [layer.name for layer in record.layers] == ["stem", "conv"]
    assert record.timing_cache_sha256 == sha256_of(made.path.with_name("m.plan.timing"))
    station = record.built_on
    assert station.tensorrt.startswith(version)
    assert (station.device, station.compute_capability) == (DEVICE.name, DEVICE.compute_capability)
    assert (station.cuda, station.driver) == (DEVICE.cuda, DEVICE.driver)
    assert plan.made_by["parent"] == {"tool": "a test"}


def test_8_6_is_given_an_explicit_batch_and_allowed_int8(install: Install, quantised: Artifact) -> None:
    asked = install("8.6").asked
    made = build(quantised).artifact
    assert asked["network"] == {"EXPLICIT_BATCH"}
    assert record_from_artifact(made).flags == ("INT8", "EXPLICIT_BATCH")


def test_10_is_strongly_typed_and_given_no_flag_of_precision(install: Install, quantised: Artifact) -> None:
    asked = install("10.16").asked
    made = build(quantised).artifact
    assert asked["network"] == {"STRONGLY_TYPED"}
    assert record_from_artifact(made).flags == ("STRONGLY_TYPED",)


def test_11_is_given_no_flags_at_all(install: Install, quantised: Artifact) -> None:
    asked = install("11.4").asked
    made = build(quantised).artifact
    assert asked["network"] == set()
    assert record_from_artifact(made).flags == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_reaches_the_builder(version: str, install: Install, quantised: Artifact) -> None:
    asked = install(version).asked
    options = BuildOptions(
        precision="tf32",
        batch=(1, 4, 6),
        workspace_mib=64,
        level=5,
        version_compatible=True,
        hardware="ampere-plus",
        external_tactics=False,
    )
    record = record_from_artifact(build(quantised, options).artifact)
    config = asked["config"]
    assert asked["pool"] == ("WORKSPACE", 64 << 20)
    assert asked["shapes"] == {"x": ((1, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8))}
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity.name == "DETAILED"
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert {"TF32", "VERSION_COMPATIBLE"} <= set(record.flags)
    sources = module("library").trt.TacticSource
    assert {source.name for source in sources if config.sources >> int(source) & 1} == {
        "EDGE_MASK_CONVOLUTIONS",
        "JIT_CONVOLUTIONS",
    }
    assert record.options == options


@pytest.mark.parametrize("version", VERSIONS)
def test_a_float_layer_computes_in_float32_unless_tf32_is_asked_for(
    version: str, install: Install, quantised: Artifact
) -> None:
    install(version)
    assert "TF32" not in record_from_artifact(build(quantised).artifact).flags


def test_fp16_is_a_flag_on_8_6_and_a_graph_in_half_precision_from_10_on(install: Install, quantised: Artifact) -> None:
    asked = install("8.6").asked
    assert "FP16" in record_from_artifact(build(quantised, BuildOptions("fp16")).artifact).flags
    assert types_of(asked["model"]) == {TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64}
    for version in ("10.16", "11.4"):
        asked = install(version).asked
        assert "FP16" not in record_from_artifact(build(quantised, BuildOptions("fp16")).artifact).flags
        assert types_of(asked["model"]) == {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64}
        asked = install(version).asked
        build(quantised, BuildOptions("bf16"))
        assert TensorProto.BFLOAT16 in types_of(asked["model"])


def types_of(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


def test_8_6_has_no_bf16(install: Install, quantised: Artifact) -> None:
    install("8.6")
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.0 does not know the builder's flag BF16; it knows FP16"):
        build(quantised, BuildOptions("bf16"))


def test_8_6_does_not_know_every_level_of_hardware(install: Install, quantised: Artifact) -> None:
    install("8.6")
    with pytest.raises(EngineError, match="does not know the hardware compatibility level SAME_COMPUTE_CAPABILITY"):
        build(quantised, BuildOptions(hardware="same-compute-capability"))


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_is_told_where_the_version_reports_it(version: str, install: Install, quantised: Artifact) -> None:
    install(version)
    steps: list[tuple[str, int, int]] = []
    build(quantised, on_step=lambda *step: steps.append(step))
    expected = [("Building Engine", 0, 2), ("Building Engine", 1, 2), ("Building Engine", 2, 2)]
    assert steps == ([] if version == "8.6" else expected)


def test_ctrl_c_cancels_the_build_and_loses_nothing(install: Install, quantised: Artifact) -> None:
    install("10.16")
    before = build(quantised).artifact
    files = {file: file.read_bytes() for file in before.path.parent.iterdir()}
    phases: list[str] = []

    def interrupt(phase: str, done: int, total: int) -> None:
        phases.append(phase)
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(quantised, BuildOptions(level=1), interrupt)
    assert len(phases) == 3, "the exception did not pass through TensorRT"
    assert {file: file.read_bytes() for file in before.path.parent.iterdir()} == files


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_inside_tensorrts_log_is_not_lost(version: str, install: Install, quantised: Artifact) -> None:
    """TensorRT's trampoline drops what a log raises, and the log is the Python that it calls most."""
    behaviour = install(version, Behaviour(while_building=lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        build(quantised)
    assert "swallowed" not in behaviour.asked
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not list(quantised.path.parent.glob("*.plan*"))


def test_build_in_a_thread_leaves_signals_alone(install: Install, quantised: Artifact) -> None:
    install("10.16")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(build, quantised).result().artifact.path.is_file()


def test_place_that_cannot_be_written_is_said_before_the_build(install: Install, quantised: Artifact) -> None:
    behaviour = install("10.16")
    folder = quantised.path.parent
    (folder / "folder.plan").mkdir()
    other = folder / "other.onnx"
    other.write_bytes(b"a model")
    for place, said in (
        (folder / "nowhere" / "m.plan", "cannot be written: No such file or directory; choose another place"),
        (other / "m.plan", "cannot be written: Not a directory"),
        (folder / "folder.plan", "is a folder; expected the name of a file"),
        (other, "is the name of a model; a plan's ends in .plan"),
    ):
        with pytest.raises(EngineError, match=said):
            module("build").plan_from_onnx(quantised, place, BuildOptions(), lambda *_: None)
    assert "model" not in behaviour.asked, "it was built all the same"
    assert other.read_bytes() == b"a model"


def test_all_builds_and_loads_of_a_process_share_one_log(install: Install, quantised: Artifact) -> None:
    """TensorRT keeps the first, whatever happens to it."""
    behaviour = install("10.16")
    built = build(quantised)
    module("plan").engine_from_artifact(built.artifact)
    assert build(quantised).notes == built.notes, "a warning of an earlier build was taken for one of this"
    assert len(behaviour.asked["loggers"]) == 3
    assert len(set(map(id, behaviour.asked["loggers"]))) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_parser_refuses_is_named_after_its_node(version: str, install: Install, quantised: Artifact) -> None:
    nodes = [node.name for node in onnx.load(str(quantised.path)).graph.node]
    place = nodes.index("conv")
    install(version, Behaviour(parser_errors=((place, "No importer registered for op: Conv"), (-1, "and no more"))))
    with pytest.raises(EngineError) as caught:
        build(quantised)
    message = str(caught.value)
    assert "cannot read m.onnx: conv (Conv): No importer registered for op: Conv; and no more" in message
    assert "export the model without it" in message


def test_nodes_without_names_are_known_by_their_outputs(install: Install, tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, Shape())
    asked = install("10.16").asked
    build(artifact)
    assert all(node.name for node in asked["model"].graph.node)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Out of memory error while finding fastest tactic for conv", "--workspace"),
        ("Could not find any implementation for node conv", "--level"),
        ("something never heard of", "something never heard of"),
    ],
)
def test_a_build_that_fails_says_why_and_loses_nothing(
    said: str, advice: str, install: Install, quantised: Artifact
) -> None:
    install("10.16")
    before = build(quantised).artifact
    files = {file: file.read_bytes() for file in before.path.parent.iterdir()}
    install("10.16", Behaviour(build_error=said))
    with pytest.raises(EngineError, match=f"TensorRT 10.16.1.11 cannot build m.onnx: {said}") as caught:
        build(quantised)
    assert advice in str(caught.value)
    assert {file: file.read_bytes() for file in before.path.parent.iterdir()} == files


def test_a_builder_that_cannot_start_says_why(install: Install, quantised: Artifact) -> None:
    install("8.6", Behaviour(starts=False))
    why = r"TensorRT 8\.6\.0 cannot start here: CUDA .* error: 35.*Update the NVIDIA driver"
    with pytest.raises(EngineError, match=why):
        build(quantised)


def test_a_timing_cache_is_kept_and_used_again(install: Install, quantised: Artifact) -> None:
    behaviour = install("10.16")
    cache = build(quantised).artifact.path.with_name("m.plan.timing")
    cache.write_bytes(CACHE_MAGIC + b" with times")
    build(quantised)
    assert behaviour.asked["config"].cache.content == CACHE_MAGIC + b" with times"
    build(quantised, BuildOptions(timing_cache="fresh"))
    assert behaviour.asked["config"].cache.content == b""


def test_a_damaged_timing_cache_is_set_aside_and_the_plan_is_built(install: Install, quantised: Artifact) -> None:
    install("10.16")
    cache = quantised.path.with_name("m.plan.timing")
    cache.write_bytes(b"rubbish")
    built = build(quantised)
    assert built.notes[0].startswith("the timing cache m.plan.timing is damaged")
    assert cache.with_name("m.plan.timing.refused").read_bytes() == b"rubbish"
    assert cache.read_bytes() == CACHE_MAGIC
    assert "a word of warning" in built.notes


def fixed_batch(artifact: Artifact) -> Artifact:
    model = onnx.load(str(artifact.path))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    path = artifact.path.with_name("fixed.onnx")
    onnx.save(model, str(path))
    return artifact_from_onnx(path)


def test_a_fixed_batch_needs_no_profile_and_takes_no_other(install: Install, quantised: Artifact) -> None:
    behaviour = install("10.16")
    fixed = fixed_batch(quantised)
    assert record_from_artifact(build(fixed).artifact).batch == (4, 4, 4)
    assert "shapes" not in behaviour.asked
    with pytest.raises(EngineError, match=r"fixed\.onnx has the fixed batch 4; leave --batch out"):
        build(fixed, BuildOptions(batch=(1, 2, 4)))


def with_type(artifact: Artifact, element_type: int) -> Artifact:
    """The same file with the activation's zero point in another type: enough for what looks at types alone."""
    model = onnx.load(str(artifact.path))
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "stem_q_zero")
    zero.CopyFrom(helper.make_tensor(zero.name, element_type, [], b"\0", raw=True))
    path = artifact.path.with_name("other.onnx")
    onnx.save(model, str(path))
    return artifact_from_onnx(path)


@pytest.mark.parametrize("element_type", [TensorProto.INT4, TensorProto.FLOAT8E4M3FN])
def test_types_of_10_are_refused_below_it(element_type: int, install: Install, quantised: Artifact) -> None:
    install("8.6")
    name = TensorProto.DataType.Name(element_type).lower()
    with pytest.raises(EngineError, match=rf"holds {name}; TensorRT takes it from version 10 on, here is 8\.6\.0"):
        build(with_type(quantised, element_type))


def test_fp8_needs_a_gpu_that_has_it_and_is_said_to_be_no_integer(install: Install, quantised: Artifact) -> None:
    eight = with_type(quantised, TensorProto.FLOAT8E4M3FN)
    install("10.16", device=Device("NVIDIA A100", "8.0", "12.8", None))
    with pytest.raises(EngineError, match=r"FP8; a GPU computes with it from compute capability 8\.9 on, here is 8\.0"):
        build(eight)
    install("10.16")
    assert any("FP8 is a floating-point type" in note for note in build(eight).notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "precision: expected one of fp32, tf32, fp16, bf16; got 'int8'"),
        ({"hardware": "ampere"}, "hardware: expected one of none, same-compute-capability, ampere-plus; got 'ampere'"),
        ({"level": 6}, "level: expected one of 0, 1, 2, 3, 4, 5; got 6"),
        ({"batch": (2, 1, 4)}, "batch: expected 1 <= smallest"),
        ({"batch": (2, 4, 8)}, "batch: expected 1 as the smallest, or three times the same"),
        ({"workspace_mib": 0}, "workspace_mib: expected at least 1; got 0"),
        ({"timing_cache": "none"}, "timing_cache: expected one of reuse, fresh; got 'none'"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        BuildOptions(**changes)


def test_the_sidecar_is_readable_json(install: Install, quantised: Artifact) -> None:
    install("11.4")
    path = build(quantised).artifact.path
    stored = json.loads(path.with_name("m.plan.json").read_text())
    assert stored == read_sidecar(path)
    assert stored["made_by"]["tool"] == "tensorrt 11.4.0.106"
    assert stored["made_by"]["plan"]["built_on"]["device"] == DEVICE.name


def test_a_model_beyond_a_protocol_buffer_is_refused(
    install: Install, quantised: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.16")
    monkeypatch.setattr(module("build"), "_LIMIT_BYTES", 100)
    with pytest.raises(EngineError, match="expected less than 2 GiB, the limit of a protocol buffer"):
        build(quantised)


def test_weights_beside_the_file_are_built_in(install: Install, tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, Shape())
    asked = install("10.16").asked
    onnx.save(
        onnx.load(str(artifact.path)),
        str(tmp_path / "apart.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    build(artifact_from_onnx(tmp_path / "apart.onnx"))
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in asked["model"].graph.initializer)
