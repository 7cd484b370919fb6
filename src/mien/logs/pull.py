"""Cuts a JSON text of any size into its parts, without taking in more than one part at a time.

It only looks for quotes and brackets; the parts are for `json` to read. So a part that is broken inside costs that part
alone, and a number or a string of any kind cannot end the reading, as it does in parsers that work on the whole stream.
It does not know what the parts mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedReader

from mien.logs.found import MAX_RECORD, Cut

_BLOCK = 256 * 1024
_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb'[^\[\]{}",: \t\r\n]*+')
_PLAIN = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
"""Up to a bracket, or to a string that does not end in the block."""
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string, up to its quote, a lone backslash at the end of the block, or that end."""
_CUT_OFF = "the file ends in the middle of a record"


class Pull:
    """A place in a JSON text. Every method reads on from there; none goes back."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self._block = b""
        self._at = 0

    def _more(self) -> bool:
        """Drop what is behind the place and read another block; False at the end."""
        block = self._stream.read1(_BLOCK)
        self._block, self._at = self._block[self._at :] + block, 0
        return bool(block)

    def peek(self) -> bytes:
        """The next byte that is no white space; empty at the end of the text."""
        while True:
            self._at = _match_end(_SPACE, self._block, self._at)
            if self._at < len(self._block):
                return self._block[self._at : self._at + 1]
            if not self._more():
                return b""

    def skip(self) -> None:
        """Go past the byte that was peeked at."""
        self._at += 1

    def elements(self) -> Iterator[None]:
        """Stand in front of each element of the array that begins here; each must be taken before the next."""
        self.skip()
        while (byte := self.peek()) != b"]":
            if byte == b",":
                self.skip()
            elif byte in (b"}", b":", b""):
                raise Cut("the JSON is broken here" if byte else _CUT_OFF)
            else:
                yield
        self.skip()

    def members(self) -> Iterator[bytes]:
        """Stand in front of each value of the object that begins here, giving its key as JSON text."""
        self.skip()
        while (byte := self.peek()) != b"}":
            if byte == b",":
                self.skip()
                continue
            key = self.value() if byte == b'"' else None
            if key is None or self.peek() != b":":
                raise Cut("the JSON is broken here" if self.peek() else _CUT_OFF)
            self.skip()
            if self.peek() in (b"", b"}", b"]", b",", b":"):
                raise Cut("the JSON is broken here" if self.peek() else _CUT_OFF)
            yield key
        self.skip()

    def value(self, keep: bool = True) -> bytes | None:
        """Bytes of the value that begins at the byte peeked at; None if it is not kept, or too long to be.

        Raises:
            Cut: the text ends before the value does.
        """
        kept: list[bytes] | None = [] if keep else None
        size = 0
        for piece in self._pieces():
            size += len(piece)
            if size > MAX_RECORD:
                kept = None
            elif kept is not None:
                kept.append(piece)
        return None if kept is None else b"".join(kept)

    def _pieces(self) -> Iterator[bytes]:
        """The value that begins here, block by block."""
        first = self.peek()
        if first == b'"':
            self.skip()
            yield first
            yield from self._string()
        elif first in (b"[", b"{"):
            yield from self._container()
        else:
            while True:
                yield self._take(_match_end(_SCALAR, self._block, self._at))
                if self._at < len(self._block) or not self._more():
                    break

    def _container(self) -> Iterator[bytes]:
        depth = 0
        while True:
            end = _match_end(_PLAIN, self._block, self._at)
            if end == len(self._block):
                yield self._take(end)
                if not self._more():
                    raise Cut(_CUT_OFF)
                continue
            byte = self._block[end : end + 1]
            yield self._take(end + 1)
            if byte == b'"':
                yield from self._string()
            else:
                depth += 1 if byte in (b"[", b"{") else -1
                if depth == 0:
                    return

    def _string(self) -> Iterator[bytes]:
        """From behind the opening quote to behind the closing one."""
        while True:
            end = _match_end(_STRING, self._block, self._at)
            if self._block[end : end + 1] == b'"':
                yield self._take(end + 1)
                return
            yield self._take(end)
            if not self._more():
                raise Cut(_CUT_OFF)

    def _take(self, end: int) -> bytes:
        piece = self._block[self._at : end]
        self._at = end
        return piece


def _match_end(pattern: re.Pattern[bytes], block: bytes, at: int) -> int:
    found = pattern.match(block, at)
    return found.end() if found else at
