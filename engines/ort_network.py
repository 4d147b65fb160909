"""A session of ONNX Runtime on the ring: its kernels go to the ring's stream, its tensors are the ring's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from engines.artifact import Artifact, TensorSpec
from engines.base import EngineError, EngineOptions, EngineUnavailable
from engines.cuda.transfers import Pointer, Stream, Transfers
from engines.ort import OrtFailure, live_facts, session_options

# Else a call returns when the device is done, and nothing overlaps.
DO_NOT_WAIT = "disable_synchronize_execution_providers"

# A provider and its options.
Provider = tuple[str, Mapping[str, str]]

CUDA = "CUDAExecutionProvider"
# Float layers in all of float32; and kernels chosen by rule, because a race between them may end in another way each
# time, and with it the answers.
CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def on_stream(transfers: Transfers, stream: Stream) -> Provider:
    """CUDA's provider, which gives its kernels to a stream of ours."""
    return CUDA, {**CUDA_OPTIONS, "user_compute_stream": str(transfers.handle(stream))}


def session_on(
    model: str | bytes, settings: ort.SessionOptions, providers: tuple[Provider, ...]
) -> ort.InferenceSession:
    """A session on the first of some providers of the first GPU.

    Raises:
        EngineUnavailable: the provider cannot start.
        EngineError: the model is refused.
    """
    wanted = providers[0][0]
    try:
        session = ort.InferenceSession(model, settings, providers=[(name, dict(each)) for name, each in providers])
    except OrtFailure as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot open the model on {wanted}: {error}") from error
    got = session.get_providers()
    if got[0] != wanted:
        raise EngineUnavailable(
            f"asked ONNX Runtime for {wanted}, got {got}: its libraries of CUDA or the driver are missing; see its log"
        )
    return session


class OrtNetwork:
    """An `engines.cuda.engine.Network`.

    Args:
        artifact: the model.
        options: how to open it.
        providers: the first is to run it; with ``user_compute_stream`` among its options.
        batch: smallest, likeliest and largest batch that the provider builds for; ``None`` where it takes any.
        device: where the ring's memory is, in ONNX Runtime's word.
    """

    def __init__(
        self,
        artifact: Artifact,
        options: EngineOptions,
        providers: tuple[Provider, ...],
        batch: tuple[int, int, int] | None = None,
        device: str = "cuda",
    ) -> None:
        self.most_rows: int | None = None if batch is None else batch[2]
        self._batch = batch
        self._artifact, self._device = artifact, device
        settings = session_options(options, artifact.session_config)
        self._session: ort.InferenceSession | None = session_on(str(artifact.path), settings, providers)
        self._run = ort.RunOptions()
        self._run.add_run_config_entry(DO_NOT_WAIT, "1")

    def enqueue(self, rows: int, source: Pointer, target: Pointer) -> None:
        """See `Network.enqueue`."""
        session = self._open()
        binding = session.io_binding()
        taken, given = self._artifact.input, self._artifact.output
        try:
            binding.bind_input(*self._place(taken), self._shape(taken, rows), source)
            binding.bind_output(*self._place(given), self._shape(given, rows), target)
            session.run_with_iobinding(binding, self._run)
        except OrtFailure as error:
            raise EngineError(f"ONNX Runtime failed on {self._artifact.path.name}: {error}") from error

    def facts(self) -> dict[str, Any]:
        """See `Network.facts`."""
        built_for = {} if self._batch is None else {"batch": list(self._batch)}
        return {**live_facts(self._open()), **built_for}

    def close(self) -> None:
        """See `Network.close`."""
        self._session = None

    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise EngineError(f"the network of {self._artifact.path} is closed; open it again")
        return self._session

    def _place(self, spec: TensorSpec) -> tuple[str, str, int, Any]:
        return spec.name, self._device, 0, np.dtype(spec.dtype).type

    def _shape(self, spec: TensorSpec, rows: int) -> list[int]:
        return [rows, *(length for length in spec.shape[1:] if length is not None)]
