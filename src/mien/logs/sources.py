"""Paths as a user gives them, made into files to be read: folders are looked through, `-` is standard input.

What is in the files is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.errors import FormatError, InputError
from mien.logs.streams import suffix_of

STDIN = "-"
RESULTS = frozenset({"turns.parquet", "samples.parquet", "summary.json", "kept.jsonl"})
"""What a scan or a screening leaves beside its `run/`, under names that logs could have."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is to be read."""

    name: str
    """As given; for a file found in a folder, the folder as given with the way to the file."""
    short: str
    """What ids of its records begin with: the file's name, after the way from the folder it was found in."""
    path: Path | None
    """None: standard input."""
    found: bool
    """Found in a folder, so that nobody said that it is a log."""


def sources_of(paths: Sequence[str | Path], suffixes: Collection[str]) -> list[Source]:
    """The files, in the order of the paths; those of a folder sorted by their names.

    Of a folder only files with one of `suffixes`, or that and `.gz`, are taken, nothing hidden, and nothing that mien
    wrote into a run folder.

    Raises:
        InputError: no path, standard input twice, or a folder without logs.
        FormatError: a path that leads to nothing, or cannot be read.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise InputError("There is no file to read; give chat logs, folders of them, or - for standard input.")
    if [str(path) for path in given].count(STDIN) > 1:
        raise InputError("Standard input can be read only once; give - one time.")
    sources: list[Source] = []
    for path in given:
        name, place = str(path), Path(path)
        if name == STDIN:
            sources.append(Source(STDIN, STDIN, None, False))
        elif _is_folder(place, name):
            sources.extend(_in_folder(place, suffixes))
        else:
            sources.append(Source(name, place.name, place, False))
    return sources


def _is_folder(path: Path, name: str) -> bool:
    try:
        if not path.exists():
            raise FormatError(f"There is no file {name if name.isprintable() else repr(name)}; check the path.")
        return path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL in it
        raise FormatError(f"The path {name[:200]!r} cannot be used; check it.") from error


def _in_folder(folder: Path, suffixes: Collection[str]) -> Iterator[Source]:
    names: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_run(Path(place) / name)]
        kept = [name for name in files if not name.startswith(".") and suffix_of(name) in suffixes]
        names.extend((Path(place) / name).relative_to(folder).as_posix() for name in kept)
    if _is_run(folder):  # results were written among the logs, and are no logs when these are read again
        names = [name for name in names if name not in RESULTS and not name.startswith("run/")]
    if not names:
        raise InputError(f"No file in the folder {folder} has a name that chat logs have, such as chats.jsonl.")
    for name in sorted(names):
        yield Source(str(folder / name), name, folder / name, True)


def _is_run(folder: Path) -> bool:
    """Whether mien keeps a run there, whose files are no logs, and grow while they are read."""
    return (folder / "run" / "manifest.json").is_file()


def _refuse(error: OSError) -> None:
    raise FormatError(f"The folder {error.filename} cannot be read: {error.strerror or error}.") from error
