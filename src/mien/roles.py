"""Roles for the Assistant Axis: what a model is asked to be, and what every role is then asked. Load, check, cut, hash.

A `RoleSet` that exists is valid. It comes from the library, from a YAML or JSON file of the library's shape, or from a
folder of the published shape: `roles/*.json` with `{"instruction": [{"pos": ...}]}`, of which `default.json` asks for
the Assistant, `extraction_questions.jsonl` with `{"question": ...}` a line, and, if there is one, `role_list.json` with
a sentence about each role. This file does not know who plays the roles, nor what an axis is.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mien.entries import checked_text, kind_of, shortened
from mien.errors import FormatError, InputError, SpecError
from mien.published import text_key
from mien.spec import MAX_ENTRIES, MAX_NAME, slug
from mien.textfiles import parse_json, parse_yaml, read_text

MIN_ROLES = 3
"""Fewest roles that a mean over roles, and a map of them, can be made of."""
MIN_QUESTIONS = 2
"""Fewest questions: with one, a role would be told by its answer to that one."""
DISTANCES = ("near", "middle", "far")
"""How far from the plain Assistant a role was guessed to be."""

_SUFFIXES = (".yaml", ".yml", ".json")
_KEYS = ("roles", "questions", "default_prompts")
_ROLE_KEYS = ("name", "distance", "who", "ways")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LIBRARY = Path(str(resources.files("mien"))) / "library"


@dataclass(frozen=True, slots=True)
class Role:
    """Somebody or something that a model can be asked to be.

    Raises:
        SpecError: the name cannot name files and columns, there are no ways, two of them are the same, or a text is
            empty, not a string, too long, or has control characters.
    """

    name: str
    """Letters, digits, '_' and '-'; names files and columns."""
    ways: tuple[str, ...]
    """System prompts, each of which asks for the role."""
    description: str = ""
    """Who it is, as a noun phrase or a sentence; empty where nobody said."""
    distance: str | None = None
    """One of `DISTANCES`, a guess made before any measurement; None: not said."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "name", _name(self.name))
        what = f"ways to ask for {self.name}"
        ways = tuple(checked_text(way, f"Entry {i} of the {what}") for i, way in enumerate(_listed(self.ways, what), 1))
        _distinct(ways, what)
        put(self, "ways", ways)
        if self.description != "":
            put(self, "description", checked_text(self.description, f"The description of {self.name}"))
        if self.distance is not None and self.distance not in DISTANCES:
            raise SpecError(
                f"The distance of {self.name} is {shortened(self.distance)}; it is one of {', '.join(DISTANCES)}."
            )


@dataclass(frozen=True, slots=True)
class RoleSet:
    """Roles, the questions they are all asked, and the ways to ask for the Assistant, whom they are compared with.

    A question may come twice, as one does in the published set; it then weighs double.

    Raises:
        SpecError: fewer than `MIN_ROLES` roles or `MIN_QUESTIONS` questions, two roles of one name, nothing that asks
            for the Assistant, or a text that cannot be used.
    """

    roles: tuple[Role, ...]
    """Ordered so that the first few are a good spread, as far as the source sees to that."""
    questions: tuple[str, ...]
    """What every role, and the Assistant, is asked."""
    default_ways: tuple[str, ...]
    """System prompts that ask for the Assistant; the empty text stands for no system prompt. In the published set
    `{model_name}` stands for the model's name, to be filled in by whoever asks."""
    source: str
    """Where it came from, for people; no part of `roles_hash`."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        roles = tuple(_listed(self.roles, "roles", MIN_ROLES))
        for i, role in enumerate(roles, 1):
            if not isinstance(role, Role):
                raise SpecError(f"Role {i} is {kind_of(role)}; it has to be a Role.")
        _distinct([role.name for role in roles if isinstance(role, Role)], "roles")
        questions = _listed(self.questions, "questions", MIN_QUESTIONS)
        ways = tuple(
            way if way == "" else checked_text(way, f"Entry {i} of the default prompts")
            for i, way in enumerate(_listed(self.default_ways, "default prompts"), 1)
        )
        _distinct(ways, "default prompts")
        put(self, "roles", roles)
        put(self, "questions", tuple(checked_text(text, f"Question {i}") for i, text in enumerate(questions, 1)))
        put(self, "default_ways", ways)

    def first(self, n_roles: int, n_questions: int) -> RoleSet:
        """The set cut to its first `n_roles` roles and `n_questions` questions; all default ways stay.

        Raises:
            InputError: too few to make anything of, or more than there are.
        """
        _check_count(n_roles, len(self.roles), MIN_ROLES, "roles")
        _check_count(n_questions, len(self.questions), MIN_QUESTIONS, "questions")
        return replace(self, roles=self.roles[:n_roles], questions=self.questions[:n_questions])


def load_roles(where: str | Path | None = None) -> RoleSet:
    """A set of roles: the library's (None), a YAML or JSON file of its shape, or a folder of the published shape.

    A file has `roles`, and may have `questions` and `default_prompts`; the library's stand in for what it lacks.
    Published roles come in the order of their names, which is a better spread than the order of `role_list.json`.

    Raises:
        SpecError: the content cannot be used.
        FormatError: a file is missing, unreadable, or not of a known shape.
    """
    if where is None:
        return _library()
    if not isinstance(where, str | Path):
        raise SpecError(f"The roles are {kind_of(where)}; give the path of a file or of a folder.")
    if not str(where).strip():
        raise SpecError("The path of the roles is empty; give a file or a folder, or leave it out for the library's.")
    try:
        path = Path(where).expanduser()
    except RuntimeError as error:
        raise FormatError(f"{where} names a home folder that does not exist; write the path out.") from error
    return _from_folder(path) if _is_folder(path) else _from_file(path)


def roles_hash(roles: RoleSet) -> str:
    """SHA-256 (hex) of all that bears on results: everything but the source."""
    mapping = asdict(roles)
    del mapping["source"]
    return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()


@cache
def _library() -> RoleSet:
    path = _LIBRARY / "roles.yaml"
    return _from_mapping(_read_mapping(path), path, _library_questions(), "mien library")


@cache
def _library_questions() -> Mapping[str, Any]:
    return _read_mapping(_LIBRARY / "role_questions.yaml")


def _from_file(path: Path) -> RoleSet:
    text = read_text(path, "role file")
    if path.suffix.lower() not in _SUFFIXES:
        raise FormatError(f"{path} does not end in {', '.join(_SUFFIXES)}; a role file is YAML or JSON.")
    data = _read_mapping(path, text)
    if "instruction" in data:
        raise FormatError(f"{path} is one published role; give the folder that has 'roles' in it.")
    return _from_mapping(data, path, _library_questions(), str(path))


def _read_mapping(path: Path, text: str | None = None) -> Mapping[str, Any]:
    text = read_text(path, "role file") if text is None else text
    data = (parse_json if path.suffix.lower() == ".json" else parse_yaml)(text, path)
    if not isinstance(data, Mapping):
        raise FormatError(f"{path} is {kind_of(data)}, not a mapping with the keys {', '.join(_KEYS)}.")
    return data


def _from_mapping(data: Mapping[str, Any], path: Path, stand_in: Mapping[str, Any], source: str) -> RoleSet:
    try:
        _check_keys(data, _KEYS, ("roles",), "The file")
        entries = _listed(data["roles"], "roles", MIN_ROLES)
        values = {**stand_in, **data}
        questions = _listed(values["questions"], "questions", MIN_QUESTIONS)
        _distinct([text for text in questions if isinstance(text, str)], "questions")
        return RoleSet(
            tuple(_role(i, entry) for i, entry in enumerate(entries, 1)),
            tuple(questions),  # type: ignore[arg-type]  # RoleSet checks that they are texts
            values["default_prompts"],
            source,
        )
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _role(number: int, entry: object) -> Role:
    if not isinstance(entry, Mapping):
        raise SpecError(f"Role {number} is {kind_of(entry)}; it has to be a mapping with {', '.join(_ROLE_KEYS)}.")
    _check_keys(entry, _ROLE_KEYS, ("name", "ways"), f"Role {number}")
    return Role(entry["name"], entry["ways"], entry.get("who", ""), entry.get("distance"))


def _from_folder(folder: Path) -> RoleSet:
    if not _is_folder(folder / "roles"):
        hint = "; give the folder above it" if folder.name == "roles" else ""
        raise FormatError(f"{folder} has no folder 'roles' in it, so it is not a published set of roles{hint}.")
    try:
        files = sorted((folder / "roles").glob("*.json"))
    except OSError as error:
        raise FormatError(f"{folder / 'roles'} cannot be read: {error.strerror or error}.") from error
    if len(files) > MAX_ENTRIES:
        raise SpecError(f"There are {len(files)} files in {folder / 'roles'}; {MAX_ENTRIES} is the most.")
    default = _published_ways(folder / "roles" / "default.json")
    questions = _published_questions(folder / "extraction_questions.jsonl")
    about = _descriptions(folder / "role_list.json")
    try:
        roles = tuple(_published_role(file, about) for file in files if file.stem != "default")
        return RoleSet(roles, questions, default, str(folder))
    except SpecError as error:
        raise SpecError(f"{folder}: {error}") from error


def _published_role(file: Path, about: Mapping[str, Any]) -> Role:
    name = file.stem if _NAME.fullmatch(file.stem) and len(file.stem) <= MAX_NAME else slug(file.stem)
    return Role(name, _published_ways(file), about.get(file.stem, ""))


def _published_ways(file: Path) -> tuple[str, ...]:
    data = parse_json(read_text(file, "role file"), file)
    entries = data.get("instruction") if isinstance(data, Mapping) else None
    if not isinstance(entries, list):
        raise FormatError(f"{file} has no list 'instruction'; a published role has one.")
    for i, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping) or "pos" not in entry:
            raise FormatError(f"Instruction {i} of {file} has no 'pos'; a published role needs it.")
    return tuple(entry["pos"] for entry in entries)


def _published_questions(file: Path) -> tuple[str, ...]:
    questions = []
    # Not splitlines(), which also parts a line at characters that JSON leaves as they are.
    for i, line in enumerate(read_text(file, "file of questions").split("\n"), 1):
        if not line.strip():
            continue
        entry = parse_json(line, f"Line {i} of {file}")
        if not isinstance(entry, Mapping) or "question" not in entry:
            raise FormatError(f"Line {i} of {file} has no 'question'; each line needs one.")
        questions.append(entry["question"])
    return tuple(questions)


def _descriptions(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    data = parse_json(read_text(file, "role list"), file)
    if not isinstance(data, Mapping):
        raise FormatError(f"{file} is {kind_of(data)}; a role list is a mapping of names to sentences.")
    return data


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # longer than a name may be, or out of reach; reading it says which
        return False


def _check_keys(data: Mapping[Any, Any], known: Sequence[str], needed: Iterable[str], what: str) -> None:
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key)[:MAX_NAME], known, n=1)
            end = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
            raise SpecError(f"{what} has the unknown key {shortened(key)}; {end}")
    for key in needed:
        if key not in data:
            raise SpecError(f"{what} has no '{key}'; add it.")


def _check_count(n: object, there_are: int, least: int, what: str) -> None:
    if not isinstance(n, int) or isinstance(n, bool):
        raise InputError(f"The number of {what} is {kind_of(n)}; it has to be a whole number.")
    if not least <= n <= there_are:
        raise InputError(f"{n} {what} cannot be had: there are {there_are}, and it takes {least} at least.")


def _listed(value: object, what: str, least: int = 1) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise SpecError(f"The {what} are {kind_of(value)}; they have to be a list.")
    if not value:
        raise SpecError(f"There are no {what}; give {least} at least.")
    if not least <= len(value) <= MAX_ENTRIES:
        raise SpecError(f"The {what} are {len(value)} in number; it takes {least} at least and {MAX_ENTRIES} at most.")
    return value


def _distinct(texts: Iterable[str], what: str) -> None:
    seen: dict[str, int] = {}
    for i, text in enumerate(texts, 1):
        first = seen.setdefault(text_key(text), i)
        if first != i:
            raise SpecError(f"Entries {first} and {i} of the {what} are the same: {shortened(text)}; drop one.")


def _name(value: object) -> str:
    text = checked_text(value, "The name of a role")
    if len(text) > MAX_NAME or not _NAME.fullmatch(text):
        raise SpecError(
            f"{shortened(text)} cannot be the name of a role: it may have up to {MAX_NAME} letters a-z, digits, '_' "
            f"and '-', and begins with a letter or a digit, for example {slug(text)!r}."
        )
    return text
