"""Load a plan: code for one GPU, which runs only when it is the code that its sidecar describes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.artifact import Artifact, ArtifactError
from engines.base import Array, EngineError, EngineOptions
from engines.certificate import Certificate
from engines.cuda.device import first_device
from engines.trt import library
from engines.trt.build import station
from engines.trt.certificate import certificate_from_inspector, changed_kernels
from engines.trt.library import refusal, trt
from engines.trt.record import artifact_from_plan, differences, mismatch, record_from_artifact


def engine_from_artifact(artifact: Artifact) -> trt.ICudaEngine:
    """The engine of a plan, once its bytes are known to be those of the artifact, and its record to be of this machine.

    Whether other bytes than the sidecar's are trusted was decided when the artifact was read
    (`engines.trt.record.artifact_from_plan`); here the bytes that are hashed are those that are loaded.

    Raises:
        ArtifactError: the plan is gone, or has changed since.
        EngineUnavailable: there is no driver or GPU.
        EngineError: it was built for another GPU or another TensorRT, or TensorRT cannot load it.
    """
    path = artifact.path
    plan = path.read_bytes()
    digest = hashlib.sha256(plan).hexdigest()
    if digest != artifact.sha256:
        raise ArtifactError(mismatch(path, digest, artifact.sha256))
    record = record_from_artifact(artifact)
    here = station(first_device())
    found = differences(record, here)
    if found:
        raise EngineError(
            f"{path} cannot run here: {'; '.join(found)}. Build it here: qharness build {record.source} "
            f"--engine tensorrt -o {path.name}"
        )
    log = library.log_of_the_process()
    runtime = library.started(trt.Runtime, log)
    # A version-compatible plan carries the runtime of the version that built it, as code for the host.
    runtime.engine_host_code_allowed = record.options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise refusal(f"TensorRT {library.VERSION} cannot load {path}", log)
    return engine


def inspector_json(engine: trt.ICudaEngine, artifact: Artifact, batch: int) -> str:
    """What the engine inspector says of every layer, for one batch.

    Without a context that knows the shapes, an engine with a dynamic batch has "N/A due to dynamic shapes" for types.

    Raises:
        EngineError: the GPU has no memory for a context, or the batch is not one of the plan's.
    """
    context = engine.create_execution_context()
    if context is None:
        raise EngineError(f"the GPU has too little free memory to run {artifact.path.name}; stop what else uses it")
    shape = [batch, *(size or 0 for size in artifact.input.shape[1:])]
    if not context.set_input_shape(artifact.input.name, trt.Dims(shape)):
        raise EngineError(f"{artifact.path.name} takes no batch of {batch}")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return text


def certify_plan(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify`: what the engine inspector says of a plan, for a batch as in ``feeds``."""
    del options  # a plan has its kernels built in
    record = record_from_artifact(artifact)
    smallest, _, largest = record.batch
    batch = min(max(len(next(iter(feeds.values()))), smallest), largest)
    engine = engine_from_artifact(artifact)
    return certificate_from_inspector(inspector_json(engine, artifact, batch), record)


def layers_built_differently(plans: Sequence[Path]) -> tuple[str, ...]:
    """The ONNX layers that several builds of one model give to different kernels.

    TensorRT measures kernels and takes the fastest, so two builds may differ, and with them the answers.
    """
    artifacts = [artifact_from_plan(path) for path in plans]
    return changed_kernels(
        [
            inspector_json(engine_from_artifact(artifact), artifact, record_from_artifact(artifact).batch[1])
            for artifact in artifacts
        ]
    )
