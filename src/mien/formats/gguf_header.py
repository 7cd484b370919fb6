"""A walk through a GGUF header that believes no count in it, before a library that does believe them reads the file.

The layout is that of the GGUF specification, versions 2 and 3. This file does not know what the values mean.
"""

from __future__ import annotations

import struct
from pathlib import Path

from mien.errors import FormatError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 100_000
_MAX_DIMENSIONS = 4


class _Cursor:
    """A place in the bytes; reading past the end is a `struct.error`."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def number(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise struct.error("a value reaches past the end of the file")
        self.at += size

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.skip(self.number("Q"))
        elif kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner == _ARRAY or count > _MAX_ITEMS:
                raise struct.error("its metadata holds an array that no control vector has")
            for _ in range(count):
                self.value(inner)
        elif kind in _SIZES:
            self.skip(_SIZES[kind])
        else:
            raise struct.error(f"unknown type of value {kind}")


def check_header(data: bytes, path: Path) -> None:
    """Refuse a GGUF file whose header lies about what is in it.

    Raises:
        FormatError: not GGUF, an unknown version, truncated, or with counts that no control vector has.
    """
    if data[:4] != b"GGUF":
        raise FormatError(f"{path} is not a GGUF file.")
    try:
        cursor = _Cursor(data, 4)
        version = cursor.number("I")
        if version and version & 0xFFFF == 0:
            raise FormatError(f"{path} is a big-endian GGUF file; convert it on the machine that wrote it.")
        if version not in (2, 3):
            raise FormatError(f"{path} is GGUF version {version}; mien reads versions 2 and 3.")
        tensors, pairs = cursor.number("Q"), cursor.number("Q")
        if max(tensors, pairs) > _MAX_ITEMS:
            raise FormatError(
                f"{path} claims {tensors} tensors and {pairs} metadata entries; it is corrupt or hostile."
            )
        for _ in range(pairs):
            cursor.value(_STRING)
            cursor.value(cursor.number("I"))
        for _ in range(tensors):
            cursor.value(_STRING)
            dimensions = cursor.number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise FormatError(f"{path} has a tensor of {dimensions} dimensions; it is corrupt.")
            cursor.skip(8 * dimensions + 4 + 8)
    except struct.error as error:
        raise FormatError(f"{path} is truncated or corrupt: {error}.") from error
