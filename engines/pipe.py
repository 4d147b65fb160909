"""Messages between two processes of this project: a JSON header and arrays, over a pair of pipes.

One message is the length of the header (8 bytes, little-endian), the header, and the arrays' bytes one after the
other; the header lists their names, dtypes and shapes. No pickle: what is read is data, never code.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LENGTH = struct.Struct("<Q")


class PipeClosed(EOFError):
    """The other side is gone; ``complete`` says whether it went between two messages."""

    def __init__(self, *, complete: bool) -> None:
        super().__init__("the pipe was closed" if complete else "the pipe was closed inside a message")
        self.complete = complete


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write one message.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in whole.items()]
    text = json.dumps({"header": dict(header), "arrays": listed}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in whole.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one message; the arrays are the caller's, and writable.

    Raises:
        PipeClosed: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size, complete=True))
    content = json.loads(_exactly(stream, length))
    arrays = {}
    for name, dtype, shape in content["arrays"]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = np.frombuffer(_exactly(stream, size), dtype).reshape(shape)
    return content["header"], arrays


def _exactly(stream: BinaryIO, size: int, *, complete: bool = False) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        part = stream.readinto(view[got:])  # type: ignore[attr-defined]  # BinaryIO leaves it out
        if not part:
            raise PipeClosed(complete=complete and got == 0)
        got += part
    return data
