"""Safe `.pt` files: what `torch.save` wrote comes back as tensors and plain values, and nothing in it is run.

`torch.load(weights_only=True)` is what keeps code from running. The checks before it keep a small file from asking
for a large memory, and name what a hostile one asked for. This file does not know what the tensors mean.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from mien.directions.files import first_line, read_file, write_files
from mien.errors import FormatError

_MAX_PICKLE = 16 * 1024**2
_HARMLESS = {
    "collections OrderedDict",
    "torch Size",
    "torch.serialization _get_layout",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "_codecs encode",
    "numpy dtype",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
}
"""All that tensors in dicts and lists ask for, by module and name; storages (`torch *Storage`) beside."""


def load_pt(path: Path | str) -> Any:
    """The value in a `.pt` file, tensors on the CPU as they were stored.

    Raises:
        FormatError: missing, truncated, not a zip archive as `torch.save` writes them, or asking for anything but
            tensors and plain values.
    """
    path = Path(path)
    data = read_file(path, ".pt file")
    _check_archive(data, path)
    try:
        with torch.serialization.safe_globals(
            [
                (_NumpyType, "numpy.dtype"),
                (_numpy_number, "numpy.core.multiarray.scalar"),
                (_numpy_number, "numpy._core.multiarray.scalar"),
            ]
        ):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text here is advice to open the file unsafely
        raise FormatError(
            f"{path} is corrupt, or holds more than tensors and plain values, which mien does not open."
        ) from error
    except Exception as error:  # a corrupt file fails in as many ways as there are bytes in it
        raise FormatError(f"{path} is corrupt: {first_line(error)}.") from error


def save_pt(value: Any, path: Path | str) -> Path:
    """Write `value` as `torch.save` does, whole or not at all; returns the path.

    Raises:
        RunError: the file cannot be written.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_files(path.parent, {path.name: buffer.getvalue()})
    return path


def floats_of(value: Any, what: str, path: Path) -> torch.Tensor:
    """`value` as a plain tensor of floating-point numbers, not yet widened.

    Raises:
        FormatError: it is something else.
    """
    if not isinstance(value, torch.Tensor):
        raise FormatError(f"{path}: {what} is {shown(value)}, not a tensor.")
    tensor = value.detach()
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise FormatError(f"{path}: {what} is a tensor of {tensor.dtype}, not of floating-point numbers.")
    return tensor


def widened(tensor: torch.Tensor, what: str, path: Path) -> torch.Tensor:
    """A finite float32 copy. Call it after the shape is checked: a small file can describe a huge view.

    Raises:
        FormatError: NaN or infinity.
    """
    copy = tensor.to(torch.float32, copy=True)
    if not torch.isfinite(copy).all():
        raise FormatError(f"{path}: {what} holds NaN or infinity; it cannot be used.")
    return copy


def _check_archive(data: bytes, path: Path) -> None:
    """Refuse what is not an uncompressed zip archive, and a pickle in it that asks for anything unusual."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(data):
            raise FormatError(f"{path} is a zip archive that unpacks to more than its size; torch.save writes no such.")
        pickles = [e for e in entries if e.filename.endswith(".pkl")]
        if not pickles or any(e.file_size > _MAX_PICKLE for e in pickles):
            raise FormatError(f"{path} is a zip archive, but not one that torch.save wrote.")
        for entry in pickles:
            _check_pickle(archive.read(entry), path)
    except zipfile.BadZipFile as error:
        raise FormatError(
            f"{path} is truncated, or not a .pt file as torch.save has written them since version 1.6; it was not "
            f"opened, since an older or a bare pickle can run anything. Write it again with torch.save."
        ) from error
    except (OSError, ValueError, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
        raise FormatError(f"{path} is corrupt: {first_line(error)}.") from error


def _check_pickle(data: bytes, path: Path) -> None:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "PROTO" and argument != 2:
            raise FormatError(
                f"{path} was saved with pickle protocol {argument}, which cannot be opened safely; "
                f"save it with torch.save's own protocol, 2."
            )
        if opcode.name in ("GLOBAL", "INST"):
            module, _, thing = str(argument).partition(" ")
            if argument not in _HARMLESS and not (module == "torch" and thing.endswith("Storage")):
                raise FormatError(
                    f"{path} asks for {module}.{thing} when it is opened, which tensors never need; nothing was run. "
                    f"Do not open it with other tools either unless you trust who made it."
                )


class _NumpyType:
    """Stands in for `numpy.dtype`, so that thresholds saved as numpy numbers can be read and numpy takes no part."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] == ">":
            raise ValueError("a big-endian number")


def _numpy_number(kind: _NumpyType, raw: bytes) -> float:
    code = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i"}[kind.code]
    number: float = struct.unpack(code, raw)[0]
    return number


def shown(value: object) -> str:
    """A value from a file, short enough for a sentence; a nested one could be made to print without end."""
    return repr(value)[:60] if value is None or isinstance(value, (str, bool, int, float)) else type(value).__name__
