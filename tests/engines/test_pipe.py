"""Messages between processes: what goes in comes out, and a pipe that ends is noticed."""

from __future__ import annotations

import io

import numpy as np
import pytest

from engines.pipe import PipeClosed, receive, send

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "bytes": np.arange(256, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float64),
    "scalar": np.array(7, np.int64),
    "turned": np.arange(6, dtype=np.int16).reshape(2, 3).T,
}


def test_header_and_arrays_come_out_as_they_went_in() -> None:
    stream = io.BytesIO()
    send(stream, {"do": "run", "größe": [1, None]}, ARRAYS)
    send(stream, {}, {})
    stream.seek(0)
    header, arrays = receive(stream)
    assert header == {"do": "run", "größe": [1, None]}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert np.array_equal(arrays[name], array)
        assert arrays[name].flags.writeable
    assert receive(stream) == ({}, {})


@pytest.mark.parametrize(("kept", "complete"), [(0, True), (3, False), (20, False), (-1, False)])
def test_end_of_the_pipe_says_whether_a_message_was_cut(kept: int, complete: bool) -> None:
    stream = io.BytesIO()
    send(stream, {}, ARRAYS)
    with pytest.raises(PipeClosed) as caught:
        receive(io.BytesIO(stream.getvalue()[:kept]))
    assert caught.value.complete is complete
