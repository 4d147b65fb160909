"""Start: where training begins, so that it does not spend its first epochs on finding ranges and means.

Calibration's ranges suit 8 bits. With 4 or 2, a few large values would leave one or two levels to all others. And what
rounding does to the mean of a channel, a batch norm would take out again; folded, it cannot, so the biases do it once
(bias correction: Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from exporters.qat.base import Method, Quantiser
from exporters.qat.graph import FakeQuantised

# Of the reach: from all of it to a thirtieth.
SHARES = tuple(2 ** (-step / 4) for step in range(20))

BeforeRounding = Callable[[int, Quantiser, Tensor], "Tensor | None"]


def begin(network: FakeQuantised, method: Method, inputs: Tensor) -> None:
    """Set biases and quantisers of activations, in the order of the graph, each behind those before it.

    Every channel of a layer gets the mean that it has without rounding, and every quantiser the share of its reach that
    rounds these inputs with least error.

    Args:
        network: in the state that calibration gave it.
        method: what its quantisers come from.
        inputs: a batch as the network takes it.
    """
    layers = _layers_in_front(network)
    means: dict[int, Tensor] = {}

    def remember(place: int, quantiser: Quantiser, values: Tensor) -> None:
        del quantiser
        if place in layers:
            means.setdefault(place, _channel_means(values))

    def settle(place: int, quantiser: Quantiser, values: Tensor) -> Tensor:
        if place in layers:
            change = means[place] - _channel_means(values)
            network.biases[str(layers[place])].add_(change)
            values = values + change.reshape(-1, *[1] * (values.ndim - 2))
        quantiser.load_state_dict(_best(quantiser, method, values).state_dict())
        return values

    with torch.no_grad():
        with _unrounded(network), _watched(network, remember):
            network(inputs)
        with _watched(network, settle):
            network(inputs)


def _layers_in_front(network: FakeQuantised) -> Mapping[int, int]:
    """Place of an activation -> that of the one layer with a bias whose output is rounded there and nothing else."""
    makers = {layer.output: place for place, layer in enumerate(network.layers) if layer.bias is not None}
    return {
        place: makers[activation.sources[0]]
        for place, activation in enumerate(network.activations)
        if len(activation.sources) == 1 and activation.sources[0] in makers
    }


def _channel_means(values: Tensor) -> Tensor:
    """[N, channels, ...] to [channels]."""
    return values.mean([axis for axis in range(values.ndim) if axis != 1])


@contextmanager
def _watched(network: FakeQuantised, before: BeforeRounding) -> Iterator[None]:
    """Call ``before`` with what each quantiser of activations is given; what it returns is given instead."""

    def hook(place: int) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        return lambda module, given: before(place, cast(Quantiser, module), given[0])

    quantisers = enumerate(network.activation_quantisers)
    hooks = [quantiser.register_forward_pre_hook(hook(place)) for place, quantiser in quantisers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def _unrounded(network: FakeQuantised) -> Iterator[None]:
    """The network as it was in float: quantisers let everything through, but a ReLU that is part of the rounding."""

    def through(module: nn.Module, given: tuple[Any, ...], rounded: Tensor) -> Tensor:
        del rounded
        quantiser = cast(Quantiser, module)
        return _wanted(quantiser, quantiser.unrounded(given[0]))

    quantisers = [*network.weight_quantisers, *network.activation_quantisers]
    hooks = [quantiser.register_forward_hook(through) for quantiser in quantisers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _wanted(quantiser: Quantiser, values: Tensor) -> Tensor:
    return values if quantiser.levels.signed else values.clamp(min=0)


def _best(quantiser: Quantiser, method: Method, values: Tensor) -> Quantiser:
    """Of quantisers with the same levels and less reach the one with the least squared error."""
    reach = float(quantiser.scale()) * quantiser.levels.highest
    wanted = _wanted(quantiser, values)
    tried = [method.activations(quantiser.levels, reach * share) for share in SHARES]
    return min(tried, key=lambda each: float((each(values) - wanted).square().mean()))
