"""Small text files that a person may have written: read with a sentence for every way that can fail.

This file does not know what the text means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mien.errors import FormatError

MAX_BYTES = 8 * 1024 * 1024


def read_text(path: Path, what: str = "file") -> str:
    """Text of a UTF-8 file; `what` names in error messages what the file should have been.

    Raises:
        FormatError: missing, a folder, a device, unreadable, larger than 8 MiB, binary, or not UTF-8.
    """
    try:
        if path.is_dir():
            raise FormatError(f"{path} is a folder, not a {what}; give one file in it.")
        if not path.exists():
            raise FormatError(f"There is no {what} at {_shown(path)}; check the path.")
        if not path.is_file():  # a pipe or a device would block, or never end
            raise FormatError(f"{path} is not a regular file; a {what} has to be one.")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path} is larger than {MAX_BYTES // 2**20} MiB, far too large for a {what}.")
    if b"\0" in data:
        raise FormatError(f"{path} is binary, not a {what} in UTF-8 text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error


def parse_yaml(text: str, source: Path | str) -> Any:
    """Value of a YAML text, plain types only; `source` is named in messages.

    Raises:
        FormatError: not YAML, or YAML that wants more than plain types.
    """
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, " if mark else ""
        raise FormatError(f"{source} is not valid YAML: {where}{error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise FormatError(f"{source} is not valid YAML: {_first_line(error)}.") from error
    except RecursionError as error:
        raise FormatError(f"{source} is nested too deeply to be read.") from error
    # PyYAML lets IndexError, KeyError, AttributeError and ValueError through for tags whose value does not fit them.
    except Exception as error:
        raise FormatError(f"{source} is not valid YAML: a value fails its tag ({_first_line(error)}).") from error


def parse_json(text: str, source: Path | str) -> Any:
    """Value of a JSON text; `source` is named in messages.

    Raises:
        FormatError: not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"{source} is not valid JSON: line {error.lineno}, {error.msg}.") from error
    except ValueError as error:  # an integer with thousands of digits
        raise FormatError(f"{source} is not valid JSON: {_first_line(error)}.") from error
    except RecursionError as error:
        raise FormatError(f"{source} is nested too deeply to be read.") from error


def _shown(path: Path) -> str:
    return str(path) if str(path).isprintable() else repr(str(path))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
