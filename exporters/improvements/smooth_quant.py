"""SmoothQuant: channels in which a transformer's activations are large become smaller, and their weights larger.

A few channels behind a LayerNormalization are many times as large as the rest, and one scale for all leaves the rest
few integers. A channel is divided by ``s`` in the normalisation's own scale and bias, and multiplied by ``s`` in the
weights that read it: the network stays the same, and nothing is computed in addition.

Source: Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", 2022, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from exporters.base import ExportError
from exporters.improvements.base import Graph, Improved, Material
from exporters.products import Constants, Left, attributes_of, prune
from exporters.tapped import Tapped

Floats = npt.NDArray[np.float32]

PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Site:
    """One normalised tensor and everything that must change with it.

    Args:
        tensor: float32 [..., channels].
        divided: pairs of node and place: the constants [channels] that make the tensor's scale and offset.
        readers: the products that read the tensor, all of them.
    """

    tensor: str
    divided: tuple[tuple[onnx.NodeProto, int], ...]
    readers: tuple[onnx.NodeProto, ...]


class SmoothQuant:
    """``s = max|X| ** alpha / max|W| ** (1 - alpha)`` for each channel, the maxima over the calibration pictures and
    over the weights of all products that read it. A channel in which either is 0 stays as it is.

    Args:
        alpha: how much of the difficulty moves into the weights, 0 to 1.
    """

    after = False

    def __init__(self, alpha: float = 0.5) -> None:
        if not 0 <= alpha <= 1:
            raise ExportError(f"smooth-quant takes the share that moves into the weights, 0 to 1; got {alpha}")
        self.alpha = alpha

    def __call__(self, model: onnx.ModelProto, original: onnx.ModelProto, material: Material) -> Improved:
        """See `exporters.improvements.base.Improvement`. Memory does not grow with the pictures."""
        constants = Constants(model.graph)
        sites, left = _sites(model.graph, constants)
        largest = channel_maxima(model, [site.tensor for site in sites], material) if sites else {}
        for site in sites:
            weights = [_by_input_channel(node, constants) for node in site.readers]
            weight_maxima = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
            _smooth(site, smoothing(largest[site.tensor], weight_maxima, self.alpha), constants)
        prune(model.graph)
        return Improved(tuple(node.name for site in sites for node in site.readers), tuple(left))


def smoothing(activations: Floats, weights: Floats, alpha: float) -> Floats:
    """The ``s`` of each channel, float32 [channels], from the largest magnitudes.

    >>> smoothing(np.float32([16, 1, 0]), np.float32([4, 1, 7]), 0.5).tolist()
    [2.0, 1.0, 1.0]
    """
    usable = (activations > 0) & (weights > 0)
    x, w = np.where(usable, activations, 1).astype(np.float64), np.where(usable, weights, 1).astype(np.float64)
    return np.asarray(x**alpha / w ** (1 - alpha), np.float32)


def channel_maxima(model: onnx.ModelProto, tensors: Sequence[str], material: Material) -> Mapping[str, Floats]:
    """Tensor -> the largest magnitude of each channel, its last axis, over the calibration pictures.

    Raises:
        ExportError: there is no picture.
    """
    tapped = Tapped(model, tensors)
    largest: dict[str, Floats] = {}
    for picture in material.pictures():
        for name, values in tapped(picture).items():
            here = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest[name], here) if name in largest else here
    if not largest:
        raise ExportError("smooth-quant looks at calibration pictures; got none")
    return largest


def _sites(graph: onnx.GraphProto, constants: Constants) -> tuple[list[Site], list[Left]]:
    lookup = Graph(graph)
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    sites: dict[str, Site] = {}
    left = []
    for node in products:
        found = _site(node, lookup, constants)
        if isinstance(found, Site):
            sites.setdefault(found.tensor, found)
        else:
            left.append(Left(node.name, node.op_type, found))
    return list(sites.values()), left


def _site(node: onnx.NodeProto, graph: Graph, constants: Constants) -> Site | str:
    tensor = node.input[0]
    divided = _normalisation(graph.makers.get(tensor), graph, constants)
    if divided is None:
        return "no LayerNormalization with a scale of its own stands before it"
    readers = graph.readers(tensor)
    if graph.only_reader(tensor) is None and len(readers) == 1:
        return "the normalised tensor is an output of the model"
    for reader in readers:
        if reader.op_type not in PRODUCTS or reader.input[0] != tensor or _is_odd(reader, constants):
            return f"{reader.name} ({reader.op_type}) reads the normalised tensor too, and has no weights to change"
    return Site(tensor, divided, tuple(readers))


def _is_odd(product: onnx.NodeProto, constants: Constants) -> bool:
    """Whether a product is none of an activation with a constant matrix."""
    is_matrix = constants.is_float32(product.input[1]) and len(constants.shape(product.input[1]) or ()) == 2
    return not is_matrix or bool(attributes_of(product).get("transA"))


def _normalisation(
    maker: onnx.NodeProto | None, graph: Graph, constants: Constants
) -> tuple[tuple[onnx.NodeProto, int], ...] | None:
    """The constants [channels] whose division divides what ``maker`` makes: of a LayerNormalization along the last
    axis, or of a Mul and an Add, as older exporters write its end."""
    if maker is None:
        return None
    if maker.op_type == "LayerNormalization":
        places = [place for place in (1, 2) if place < len(maker.input) and maker.input[place]]
        fits = attributes_of(maker).get("axis", -1) == -1 and all(
            _is_vector(maker.input[each], constants) for each in places
        )
        return tuple((maker, place) for place in places) if fits else None
    place = next((index for index, name in enumerate(maker.input) if _is_vector(name, constants)), None)
    if place is None or maker.op_type not in ("Mul", "Add"):
        return None
    if maker.op_type == "Mul":
        return ((maker, place),)
    source = maker.input[1 - place]
    if graph.only_reader(source) is None:
        return None
    before = graph.makers.get(source)
    scaled = _normalisation(before, graph, constants) if before is not None and before.op_type == "Mul" else None
    return (*scaled, (maker, place)) if scaled else None


def _is_vector(name: str, constants: Constants) -> bool:
    return constants.is_float32(name) and len(constants.shape(name) or ()) == 1


def _by_input_channel(product: onnx.NodeProto, constants: Constants) -> Floats:
    """The weights of a product, float32 [inputs, outputs]."""
    weight = constants.floats(product.input[1])
    return weight.T if attributes_of(product).get("transB") else weight


def _smooth(site: Site, by: Floats, constants: Constants) -> None:
    # New constants, for other nodes may read the old ones: exporters store equal ones once.
    for node, place in site.divided:
        values = constants.floats(node.input[place]) / by
        node.input[place] = constants.add(f"{node.output[0]}_smoothed_{place}", values)
    for node in site.readers:
        weight = _by_input_channel(node, constants) * by[:, None]
        stored = weight.T if attributes_of(node).get("transB") else weight
        node.input[1] = constants.add(f"{node.output[0]}_smoothed_weight", stored)
