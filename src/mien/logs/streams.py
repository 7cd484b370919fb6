"""Bytes of a file: unpacked if they are gzip'ed, looked at before they are read, never all in memory.

Whatever stops the reading is a `Cut` at that place. What the bytes mean is not known here.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mien.errors import FormatError
from mien.logs.found import MAX_RECORD, Cut

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GZIP = b"\x1f\x8b"
HEAD = 1024 * 1024
"""Bytes that are looked at to tell the format."""
_BLOCK = 64 * 1024


class _Raw(io.RawIOBase):
    """A raw stream over a function that gives some more bytes each time, at most as many as asked."""

    def __init__(self, more: Callable[[int], bytes]) -> None:
        self._more = more

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._more(len(view))
        view[: len(data)] = data
        return len(data)


def guarded(stream: IO[bytes]) -> io.BufferedReader:
    """The stream, where every fault is a `Cut`."""

    def more(size: int) -> bytes:
        try:
            return stream.read(size) or b""
        except Exception as error:  # members of archives fail with the errors of every packer there is
            raise Cut(f"it cannot be read further ({_phrase(error)})") from error

    return io.BufferedReader(_Raw(more), _BLOCK)


def _phrase(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:100].rstrip(".")


def gunzipped(packed: io.BufferedReader) -> io.BufferedReader:
    """What a gzip file of one or several members holds, up to where it is broken."""
    unpacker = zlib.decompressobj(wbits=31)
    rest = b""
    began = False  # this member

    def more(size: int) -> bytes:
        nonlocal unpacker, rest, began
        while True:
            if unpacker.eof:
                rest, unpacker, began = unpacker.unused_data, zlib.decompressobj(wbits=31), False
            block = rest or packed.read1(_BLOCK)
            if not block:
                if began:
                    raise Cut("the gzip data ends too early")
                return b""
            rest = block if began else block.lstrip(b"\0")  # padding, as tapes leave it
            if not rest:
                continue
            began = True
            try:
                data = unpacker.decompress(rest, size)
            except zlib.error as error:
                raise Cut("the gzip data is corrupt") from error
            rest = unpacker.unconsumed_tail
            if data:
                return data

    return io.BufferedReader(_Raw(more), _BLOCK)


@dataclass(frozen=True, slots=True)
class Log:
    """An open file of a log."""

    name: str
    """As given."""
    suffix: str
    """Of the name, lower case, without `.gz`; empty where it has none."""
    head: bytes
    """The first bytes, up to `HEAD` of them, unpacked and without a byte order mark."""
    whole: bool
    """Whether the head is all of the file."""
    stream: io.BufferedReader
    """All of it, from the start, unpacked and without a byte order mark."""
    cut: Cut | None
    """What keeps the head from being longer, if anything but the file's end does."""
    file: IO[bytes] | None
    """The file itself where it can be sought in and is not packed."""

    @contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """All of it as a file that can be sought in: itself, or a copy on the disk.

        Raises:
            Cut: it cannot be read to its end.
        """
        if self.file is not None:
            self.file.seek(0)
            yield self.file
            return
        with tempfile.TemporaryFile() as copy:
            while block := self.stream.read1(_BLOCK):
                copy.write(block)
            copy.seek(0)
            yield copy


@contextmanager
def opened(path: Path | None, name: str) -> Iterator[Log]:
    """The file, or standard input where there is no path.

    Raises:
        FormatError: it cannot be opened.
    """
    with ExitStack() as closing:
        file: IO[bytes] = sys.stdin.buffer
        if path is not None:
            try:
                file = closing.enter_context(path.open("rb", buffering=0))
            except OSError as error:
                raise FormatError(f"{name} cannot be read: {error.strerror or error}.") from error
        plain = guarded(file)
        start, cut = _start(plain, len(GZIP))
        stream = _joined(start, plain, cut)
        packed = start == GZIP
        if packed:
            stream = gunzipped(stream)
        head, cut = _start(stream, HEAD)
        whole, head = len(head) < HEAD and cut is None, head.removeprefix(b"\xef\xbb\xbf")
        direct = file if path is not None and path.is_file() and not packed else None
        yield Log(name, suffix_of(name), head, whole, _joined(head, stream, cut), cut, direct)


def suffix_of(name: str) -> str:
    """What a file's name ends in, lower case, without `.gz`; empty where it has no such end."""
    return Path(name.lower().removesuffix(".gz")).suffix


def _start(stream: io.BufferedReader, size: int) -> tuple[bytes, Cut | None]:
    """The first bytes, and what kept them from being more."""
    blocks: list[bytes] = []
    missing = size
    try:
        while missing and (block := stream.read1(missing)):
            blocks.append(block)
            missing -= len(block)
    except Cut as cut:
        return b"".join(blocks), cut
    return b"".join(blocks), None


def _joined(start: bytes, stream: io.BufferedReader, cut: Cut | None) -> io.BufferedReader:
    """The stream with what was read of it put back, ending where it was cut."""

    def more(size: int) -> bytes:
        nonlocal start
        if start:
            data, start = start[:size], start[size:]
            return data
        if cut is not None:
            raise cut
        return stream.read1(size)

    return io.BufferedReader(_Raw(more), _BLOCK)


def lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1, without their ends; None for one that is too long to be read.

    Raises:
        Cut: the file cannot be read to its end.
    """
    number = 0
    try:
        while line := stream.readline(MAX_RECORD + 1):
            number += 1
            if len(line) <= MAX_RECORD or line.endswith(b"\n"):
                yield number, line.rstrip(b"\r\n")
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(_BLOCK)
            yield number, None
    except Cut as cut:
        raise Cut(str(cut), number + 1) from cut
