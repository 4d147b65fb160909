"""Build a plan from an ONNX file with explicit Q/DQ, or from a float one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx

from engines.artifact import Artifact, write_sidecar
from engines.base import EngineError
from engines.building import DEFAULT_BATCH, REUSE, BuildOptions, Built, OnStep
from engines.cuda.device import Device, first_device
from engines.macs import layers_from_onnx
from engines.onnx_file import external_files
from engines.trt import library
from engines.trt.casting import HALVES, model_in_half
from engines.trt.library import Log, refusal, trt
from engines.trt.lint import FLOAT8
from engines.trt.qdq_graph import QdqGraph, node_name
from engines.trt.record import PlanRecord, Station, made_by

_LIMIT_BYTES = 2 << 30
_SHOWN_ERRORS = 3


def plan_from_onnx(artifact: Artifact, path: Path, options: BuildOptions, on_step: OnStep) -> Built:
    """An `engines.building.BuildPlan`, which writes the timing cache too.

    Raises:
        EngineUnavailable: there is no driver or GPU.
        EngineError: TensorRT refuses the file or the options, or ``path`` cannot be written; the message says why and
            what to do.
        ArtifactError: the file cannot be cast to the precision.
    """
    with _room_for(path):
        return _build(artifact, path, options, on_step)


def station(device: Device) -> Station:
    """This machine, as a plan's record names it."""
    return Station(library.VERSION, device.name, device.compute_capability, device.cuda, device.driver)


def timing_cache_path(plan: Path) -> Path:
    """Where the timing cache of a plan lies."""
    return plan.with_name(plan.name + ".timing")


def _build(artifact: Artifact, path: Path, options: BuildOptions, on_step: OnStep) -> Built:
    device = first_device()
    model = _model(artifact)
    integers = tuple(sorted({found for _, found in QdqGraph(model).typed()}))
    library.check_integers(integers, device.compute_capability)
    if options.precision in HALVES and library.strongly_typed():
        model = model_in_half(model, options.precision)
    batch = _batch(artifact, options)
    log = library.log_of_the_process()
    builder = library.started(trt.Builder, log)
    network = library.new_network(builder)
    _parse(artifact, model, network, log)
    config = _config(builder, options, integers)
    if artifact.fixed_batch is None:
        _add_profile(builder, config, artifact, batch, log)
    cache_file = timing_cache_path(path)
    notes = _use_cache(config, cache_file, options, log)
    watched = library.watch(config, on_step)
    with watched.instead_of_interrupts():
        serialised = builder.build_serialized_network(network, config)
    if watched.interrupted:
        raise KeyboardInterrupt
    if serialised is None:
        raise refusal(f"TensorRT {library.VERSION} cannot build {artifact.path.name}", log)
    cache = library.bytes_of(config.get_timing_cache().serialize())
    plan = library.bytes_of(serialised)
    record = PlanRecord(
        source=artifact.path.name,
        source_sha256=artifact.sha256,
        sha256=hashlib.sha256(plan).hexdigest(),
        built_on=station(device),
        options=options,
        flags=(*library.flags_of(config), *library.network_flags()),
        timing_cache_sha256=hashlib.sha256(cache).hexdigest(),
        batch=batch,
        integers=integers,
        layers=layers_from_onnx(artifact.path),
    )
    if FLOAT8 in integers:
        notes = (*notes, "its FP8 is a floating-point type: the certificate counts no layer of FP8 as an integer one")
    return Built(_write(artifact, record, path, plan, cache), (*notes, *dict.fromkeys(log.warnings)))


def _model(artifact: Artifact) -> onnx.ModelProto:
    """The network with its weights inside and a name for every node, by which messages and certificate know it."""
    path = artifact.path
    weights = external_files(path, onnx.load(str(path), load_external_data=False))
    size_bytes = sum(file.stat().st_size for file in (path, *weights))
    if size_bytes >= _LIMIT_BYTES:
        raise EngineError(
            f"{path.name} and its weights hold {size_bytes / 2**30:.1f} GiB; expected less than 2 GiB, the limit of a "
            f"protocol buffer"
        )
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.name = node_name(node)
    return model


def _batch(artifact: Artifact, options: BuildOptions) -> tuple[int, int, int]:
    fixed = artifact.fixed_batch
    if fixed is None:
        return options.batch or DEFAULT_BATCH
    if options.batch not in (None, (fixed, fixed, fixed)):
        raise EngineError(
            f"{artifact.path.name} has the fixed batch {fixed}; leave --batch out, or export it with a dynamic batch"
        )
    return fixed, fixed, fixed


def _parse(artifact: Artifact, model: onnx.ModelProto, network: trt.INetworkDefinition, log: Log) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(model.SerializeToString()):
        return
    log.errors[:] = _parser_errors(parser, model)[:_SHOWN_ERRORS] or log.errors
    raise refusal(f"TensorRT {library.VERSION} cannot read {artifact.path.name}", log)


def _parser_errors(parser: trt.OnnxParser, model: onnx.ModelProto) -> list[str]:
    """What the parser refused, each with the name of the node, which 8.6 gives by its number alone."""
    nodes = model.graph.node
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        place = error.node()
        where = f"{nodes[place].name} ({nodes[place].op_type}): " if 0 <= place < len(nodes) else ""
        found.append(f"{where}{error.desc()}")
    return found


def _config(builder: trt.Builder, options: BuildOptions, integers: Sequence[str]) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    # The certificate reads the types of every layer, which plans of the default verbosity do not keep.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = options.level
    library.set_types(config, options.precision, integers)
    library.set_hardware(config, options.hardware)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if not options.external_tactics:
        library.leave_out_external_tactics(config)
    return config


def _add_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, artifact: Artifact, batch: tuple[int, int, int], log: Log
) -> None:
    profile = builder.create_optimization_profile()
    height, width = artifact.size
    picture = [3, height, width] if artifact.layout == "nchw" else [height, width, 3]
    smallest, likeliest, largest = (trt.Dims([count, *picture]) for count in batch)
    profile.set_shape(artifact.input.name, smallest, likeliest, largest)
    if config.add_optimization_profile(profile) < 0:
        raise refusal(f"TensorRT {library.VERSION} refuses batches of {batch[0]} to {batch[2]}", log)


def _use_cache(config: trt.IBuilderConfig, file: Path, options: BuildOptions, log: Log) -> tuple[str, ...]:
    """Give the builder the times that were measured before; a cache that it refuses is set aside, not lost."""
    stored = file.read_bytes() if options.timing_cache == REUSE and file.is_file() else b""
    if _accepts(config, stored):
        return ()
    if not stored or not _accepts(config, b""):
        raise refusal(f"TensorRT {library.VERSION} makes no timing cache", log)
    aside = file.with_name(file.name + ".refused")
    os.replace(file, aside)
    log.errors.clear()
    return (f"the timing cache {file.name} is damaged or of another GPU; it was set aside as {aside.name}",)


def _accepts(config: trt.IBuilderConfig, stored: bytes) -> bool:
    cache = config.create_timing_cache(stored)
    return cache is not None and config.set_timing_cache(cache, False)


def _write(artifact: Artifact, record: PlanRecord, path: Path, plan: bytes, cache: bytes) -> Artifact:
    source = _of_one_size(artifact, record.batch[0]) if record.batch[0] == record.batch[2] else artifact
    made = replace(source, path=path, format="plan", sha256=record.sha256, made_by=made_by(record, source))
    # Killed in between, it leaves the old sidecar beside the new plan, and that is refused.
    for file, content in ((timing_cache_path(path), cache), (path, plan)):
        half_written = _half_written(file)
        half_written.write_bytes(content)
        os.replace(half_written, file)
    write_sidecar(made)
    return made


def _of_one_size(artifact: Artifact, batch: int) -> Artifact:
    """A plan of one size has a fixed batch, whatever its source had: so the last batch of a run is filled up."""
    taken, given = (replace(spec, shape=(batch, *spec.shape[1:])) for spec in (artifact.input, artifact.output))
    return replace(artifact, input=taken, output=given)


def _half_written(file: Path) -> Path:
    """Where a file lies until it is whole; two processes that build the same one do not meet there."""
    return file.with_name(f"{file.name}.{os.getpid()}.part")


@contextmanager
def _room_for(plan: Path) -> Iterator[None]:
    """See that a plan can be written before it is built, which takes minutes; leave nothing half-written.

    Raises:
        EngineError: it cannot.
    """
    if plan.suffix == ".onnx":
        raise EngineError(f"{plan} is the name of a model; a plan's ends in .plan")
    if plan.is_dir():
        raise EngineError(f"{plan} is a folder; expected the name of a file for the plan")
    halves = [_half_written(file) for file in (plan, timing_cache_path(plan))]
    try:
        halves[0].touch()
    except OSError as error:
        raise EngineError(f"{plan} cannot be written: {error.strerror}; choose another place") from error
    try:
        yield
    finally:
        for half in halves:
            half.unlink(missing_ok=True)
