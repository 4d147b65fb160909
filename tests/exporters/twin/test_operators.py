"""Operators: every row of the table against ONNX's own tests or ONNX Runtime, and the suite against wrong operators."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from exporters.base import ExportError
from tests.exporters.twin.onnx_cases import Case, cases_of
from tests.exporters.twin.runtime_cases import runtime_cases

torch = pytest.importorskip("torch")

from exporters.twin.network import Twin  # noqa: E402
from exporters.twin.table import OPERATORS  # noqa: E402

# What the twin refuses of ONNX's tests: part of a name -> part of the message.
REFUSED = {
    "attention": "keys of earlier tokens|window",
    "argmax": "select_last_index",
    "averagepool": "dilations",
    "batchnorm": "training_mode",
    "dropout": "training_mode",
    "gathernd": "batch_dims",
    "resize": "tf_crop_and_resize|antialias|aspect ratio",
    "scatter": "reduction",
    "spacetodepth": "CRD",
}
# An empty tensor has no greatest value in torch; no network reduces one.
LEFT_OUT = {"test_reduce_max_empty_set", "test_reduce_max_empty_set_bool", "test_reduce_min_empty_set"}

PUBLISHED = [row for row in OPERATORS if not row.startswith("com.microsoft.")]


def computed(case: Case) -> dict[str, np.ndarray]:
    """The first output of a case, as the twin computes it."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    if model.graph.node[0].op_type != "Split":  # further outputs are masks and statistics
        del model.graph.output[1:]
    inputs = {name: torch.from_numpy(np.array(values)) for name, values in case.inputs.items()}
    return {name: values.numpy() for name, values in Twin(model).evaluate(inputs).items()}


def check(case: Case) -> None:
    """Whether the twin computes what a case expects."""
    for name, found in computed(case).items():
        expected = case.expected[name]
        assert found.shape == expected.shape, case.name
        rtol = 2e-3 if expected.dtype == np.float16 else 1e-3  # as onnx.backend.test has it for all
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-5, err_msg=case.name)


def all_cases(row: str) -> list[Case]:
    published = cases_of(row) if row in PUBLISHED else ()
    return [*(case for case in published if case.name not in LEFT_OUT), *runtime_cases(row)]


def refusal(case: Case) -> str:
    """Why the twin does not compute a case, or nothing."""
    try:
        computed(case)
    except ExportError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("row", OPERATORS)
def test_an_operator_computes_what_onnx_says(row: str) -> None:
    compared = 0
    for case in all_cases(row):
        if reason := refusal(case):
            known = "|".join(message for part, message in REFUSED.items() if part in case.name)
            assert known, reason
            assert re.search(known, reason), reason
        else:
            check(case)
            compared += 1
    assert compared, f"nothing tests {row}"


@pytest.mark.parametrize("row", OPERATORS)
def test_a_wrong_operator_would_be_seen(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = OPERATORS[row]

    def wrong(node: Any, *values: Any) -> Any:
        results = right(node, *values)
        return tuple(map(spoilt, results)) if isinstance(results, tuple) else spoilt(results)

    cases = [case for case in all_cases(row) if all(values.size for values in case.expected.values())]
    case = next(case for case in cases if not refusal(case))
    monkeypatch.setitem(OPERATORS, row, wrong)
    with pytest.raises(AssertionError):
        check(case)


def spoilt(values: Any) -> Any:
    return ~values if values.dtype is torch.bool else values + 1


def test_an_operator_that_the_twin_lacks_is_named_with_its_node() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])
    nodes = [
        onnx.helper.make_node("Det", ["x"], ["d"], "the_determinant"),
        onnx.helper.make_node("Inverse", ["d"], ["y"], "the_inverse", domain="com.microsoft"),
    ]
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [value], [result]), opset_imports=opsets)
    with pytest.raises(ExportError, match=r"lacks Det \(ai.onnx, opset 17\) at node 'the_determinant'") as caught:
        Twin(model)
    assert "Inverse (com.microsoft, opset 1) at node 'the_inverse'" in str(caught.value)


def test_an_output_that_the_twin_leaves_out_is_refused_where_it_is_read() -> None:
    nodes = [
        onnx.helper.make_node("MaxPool", ["x"], ["m", "places"], "pool", kernel_shape=[2, 2]),
        onnx.helper.make_node("Cast", ["places"], ["y"], "reader", to=onnx.TensorProto.FLOAT),
    ]
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    twin = Twin(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [value], [result])))
    with pytest.raises(ExportError, match="node 'reader' has the input 'places'"):
        twin(torch.zeros(1, 1, 4, 4))
