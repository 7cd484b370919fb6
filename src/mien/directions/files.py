"""Bytes in and out of files: read with a sentence for every way that can fail, written whole or not at all.

This file does not know what the bytes are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from mien.errors import FormatError, RunError

_MAX_FILE = 2 * 1024**3


def read_file(path: Path, what: str) -> bytes:
    """All bytes of a regular file; `what` says in messages what it should have been.

    Raises:
        FormatError: missing, a folder or a device, unreadable, empty, or larger than 2 GiB.
    """
    try:
        if not path.exists():
            raise FormatError(f"There is no {what} at {path}; check the path.")
        if not path.is_file():
            raise FormatError(f"{path} is not a regular file, so it cannot be a {what}.")
        if path.stat().st_size > _MAX_FILE:
            raise FormatError(f"{path} is larger than {_MAX_FILE // 2**30} GiB, far too large for a {what}.")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FormatError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not data:
        raise FormatError(f"{path} is empty; it is not a {what}.")
    return data


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into `folder` (made if it is not there): all to temporary names first, then each moved into place.

    Raises:
        RunError: the disk is full, or the place cannot be written.
    """
    temporary = {name: folder / f".{name[:40]}.{secrets.token_hex(6)}.tmp" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            with temporary[name].open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for name in files:
            os.replace(temporary[name], folder / name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        names = " and ".join(files)
        raise RunError(
            f"{names} cannot be written to {folder}: {reason}; free space or choose another place."
        ) from error
    finally:
        for path in temporary.values():
            with contextlib.suppress(OSError, ValueError):  # the folder is unwritable: the error on its way says so
                path.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop, for use inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
