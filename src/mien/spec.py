"""Trait specs: what a trait is asked with and judged by. Load, check, save; the library of them.

A `TraitSpec` that exists is valid: whoever makes one, from whatever source, gets a sentence about what is wrong or a
spec that every later stage can rely on. This file does not know who writes specs, nor what is done with them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mien.entries import checked_text, kind_of, shortened
from mien.errors import FormatError, SpecError
from mien.published import is_published, mapping_to_published, published_to_mapping, text_key
from mien.store import disk_errors, write_atomic
from mien.textfiles import parse_json, parse_yaml, read_text

MAX_ENTRIES = 1000
"""Most questions of a kind, or instruction pairs, in a spec."""
MAX_NAME = 64
"""Longest name of a trait, in characters."""

_SUFFIXES = (".yaml", ".yml", ".json")
_KEYS = ("name", "description", "instructions", "extract_questions", "eval_questions", "rubric", "author")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LIBRARY = Path(str(resources.files("mien"))) / "library"


@dataclass(frozen=True, slots=True)
class InstructionPair:
    """Two system prompts that differ in the trait and, as far as can be, in nothing else."""

    pos: str
    """Asks for the trait."""
    neg: str
    """Asks for its opposite or for an ordinary answer, at about the same length."""


@dataclass(frozen=True, slots=True)
class TraitSpec:
    """A trait, given by a name and one sentence, with all that is needed to elicit and to judge it.

    Texts are stripped of outer space, and sequences become tuples, when the spec is made.

    Raises:
        SpecError: a text is empty, not a string, has control characters or is longer than `MAX_TEXT`; there are no
            pairs or no questions; a pair's two sides are the same; a question comes twice.
    """

    name: str
    """Letters, digits, '_' and '-'; names files and columns."""
    description: str
    """One sentence, best in the third person: 'flatters the user'."""
    instructions: tuple[InstructionPair, ...]
    """System prompts for and against the trait."""
    extract_questions: tuple[str, ...]
    """What is asked to make a direction."""
    eval_questions: tuple[str, ...]
    """What is asked to test it; none is among `extract_questions`."""
    rubric: str
    """How a judge scores an answer from 0 to 100."""
    author: str
    """Who or what wrote the spec."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "name", check_name(self.name))
        for field in ("description", "rubric", "author"):
            put(self, field, checked_text(getattr(self, field), f"The {field}"))
        put(self, "description", " ".join(self.description.split()))
        put(self, "instructions", _pairs(self.instructions))
        for field in ("extract_questions", "eval_questions"):
            put(self, field, _questions(getattr(self, field), field.replace("_", " ")))
        held_out = {text_key(question) for question in self.eval_questions}
        for question in self.extract_questions:
            if text_key(question) in held_out:
                raise SpecError(
                    f"The question {shortened(question)} is among both the extract and the eval questions; "
                    "keep it in one of them, since a direction must not be tested on what it was made of."
                )


@dataclass(frozen=True, slots=True)
class Neutral:
    """What steering should leave alone."""

    texts: tuple[str, ...]
    """Prose in nobody's voice."""
    harmless_requests: tuple[str, ...]
    """Requests that sound alarming and are not."""
    harmful_requests: tuple[str, ...]
    """Requests that a good assistant turns down."""
    refusals: tuple[str, ...]
    """Lower-case phrases that tell a refusal."""


def library_names() -> tuple[str, ...]:
    """Names of the library's traits, sorted."""
    return tuple(sorted(path.stem for path in (_LIBRARY / "traits").glob("*.yaml")))


@cache
def load_library(name: str) -> TraitSpec:
    """The library's trait of that name.

    Raises:
        SpecError: there is none; the message names the closest ones.
    """
    if name not in library_names():
        raise SpecError(f"There is no trait {shortened(name)} in the library{suggest(name, library_names())}")
    path = _LIBRARY / "traits" / f"{name}.yaml"
    return _from_file(path, author="mien library")


@cache
def load_neutral() -> Neutral:
    """The library's neutral texts, requests and refusal phrases."""
    path = _LIBRARY / "neutral.yaml"
    data = parse_yaml(read_text(path), path)
    return Neutral(**{key: tuple(text.strip() for text in texts) for key, texts in data.items()})


def load_spec(path_or_name: str | Path) -> TraitSpec:
    """A spec from the library by its name, or from a file: YAML or JSON of the library's shape, or published JSON.

    A string that is a library name means the library; `./evil.yaml` or a `Path` always means a file. Of a published
    trait in two files, either may be given (see `mien.published`).

    Raises:
        SpecError: no such name, or the content cannot be used.
        FormatError: the file is missing, unreadable, or not of a known shape.
    """
    if isinstance(path_or_name, str):
        if path_or_name in library_names():
            return load_library(path_or_name)
        if not path_or_name.strip():
            raise SpecError("The trait is empty; give a library name or the path of a trait file.")
        if not looks_like_path(path_or_name):
            raise SpecError(
                f"{shortened(path_or_name)} is neither a trait of the library nor a file"
                f"{suggest(path_or_name, library_names())}"
            )
    return _from_file(Path(path_or_name), author="file")


def save_spec(spec: TraitSpec, path: str | Path) -> Path:
    """Write a spec as YAML of the library's shape, whole or not at all; returns the path.

    Raises:
        RunError: the place cannot be written.
    """
    text = yaml.dump(spec_to_mapping(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=116)
    return _write(Path(path), text)


def export_published(spec: TraitSpec, folder: str | Path) -> tuple[Path, Path]:
    """Write `NAME.extract.json` and `NAME.eval.json` of the published shape into `folder`; returns their paths.

    Raises:
        RunError: the folder cannot be written.
    """
    extract, held_out = mapping_to_published(spec_to_mapping(spec))
    folder = Path(folder)
    return (
        _write(folder / f"{spec.name}.extract.json", extract),
        _write(folder / f"{spec.name}.eval.json", held_out),
    )


def spec_to_mapping(spec: TraitSpec) -> dict[str, Any]:
    """The spec as plain lists, dicts and strings, in the order of its fields."""
    mapping = asdict(spec)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in mapping.items()}


def spec_from_mapping(data: object, *, author: str | None = None) -> TraitSpec:
    """A spec from plain lists, dicts and strings, as read from YAML; `author` stands in where there is none.

    Raises:
        SpecError: a key is missing or unknown, or a value cannot be used.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"A trait is a mapping with the keys {', '.join(_KEYS)}; this is {kind_of(data)}.")
    for key in data:
        if key not in _KEYS:
            raise SpecError(f"The key {shortened(key)} is unknown{suggest(str(key), _KEYS)}")
    values = {"author": author, **data} if author else dict(data)
    missing = [key for key in _KEYS if key not in values]
    if missing:
        raise SpecError(f"The trait has no {' and no '.join(repr(key) for key in missing)}; add it.")
    pairs = _listed(values.pop("instructions"), "instructions")
    return TraitSpec(instructions=tuple(_pair(i, pair) for i, pair in enumerate(pairs, 1)), **values)


def spec_hash(spec: TraitSpec) -> str:
    """SHA-256 (hex) of all that bears on results: every field but the author."""
    mapping = spec_to_mapping(spec)
    del mapping["author"]
    return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()


def check_name(name: object) -> str:
    """`name` without outer space, if it can name files and columns.

    Raises:
        SpecError: it is empty, longer than `MAX_NAME`, or has other characters than letters, digits, '_' and '-'.
    """
    text = checked_text(name, "The trait's name")
    if len(text) > MAX_NAME:
        raise SpecError(f"The trait's name has {len(text)} characters; {MAX_NAME} is the most.")
    if not _NAME.fullmatch(text):
        raise SpecError(
            f"{shortened(text)} cannot be a trait's name: it may have letters a-z, digits, '_' and '-' only, "
            f"and begins with a letter or a digit, for example {slug(text)!r}."
        )
    return text


def slug(text: str, max_length: int = 40) -> str:
    """A name made of `text`: `[a-z0-9_]`, cut between words where that is possible, never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("'", "")
    words: list[str] = re.findall(r"[a-z0-9]+", plain)
    if not words:  # another script; a hash keeps such names apart
        return f"trait_{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    name = words[0][:max_length]
    for word in words[1:]:
        if len(name) + 1 + len(word) > max_length:
            break
        name += f"_{word}"
    return name


def _write(path: Path, text: str) -> Path:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return path


def _from_file(path: Path, author: str) -> TraitSpec:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise FormatError(f"{path} names a home folder that does not exist; write the path out.") from error
    text = read_text(path, "trait file")
    if path.suffix.lower() not in _SUFFIXES:
        raise FormatError(f"{path} does not end in {', '.join(_SUFFIXES)}; a trait file is YAML or JSON.")
    data = (parse_json if path.suffix.lower() == ".json" else parse_yaml)(text, path)
    if data is None:
        raise FormatError(f"{path} is empty; a trait has the keys {', '.join(_KEYS)}.")
    if not isinstance(data, Mapping):
        raise FormatError(f"{path} holds {kind_of(data)}, not a trait with the keys {', '.join(_KEYS)}.")
    if not is_published(data) and not any(key in _KEYS for key in data):
        raise FormatError(f"{path} is not a trait: it has none of the keys {', '.join(_KEYS)}.")
    try:
        if is_published(data):
            data = published_to_mapping(path, data)
            if not _NAME.fullmatch(data["name"]) or len(data["name"]) > MAX_NAME:
                data["name"] = slug(data["name"])
        return spec_from_mapping(data, author=author)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def looks_like_path(text: str, suffixes: tuple[str, ...] = _SUFFIXES) -> bool:
    """Whether a string that may be a name or a file means a file."""
    if text.lower().endswith(suffixes) or any(mark in text for mark in ("/", "\\")):
        return True
    try:
        return Path(text).exists()
    except OSError:  # longer than a file name may be
        return False


def _pair(number: int, value: object) -> InstructionPair:
    if not isinstance(value, Mapping):
        raise SpecError(f"Instruction pair {number} is {kind_of(value)}; it has to be a mapping with 'pos' and 'neg'.")
    for side in ("pos", "neg"):
        if side not in value:
            raise SpecError(
                f"Instruction pair {number} has no '{side}'; a trait needs both sides (a role has only 'pos')."
            )
    return InstructionPair(value["pos"], value["neg"])


def _pairs(value: object) -> tuple[InstructionPair, ...]:
    pairs = []
    for i, pair in enumerate(_listed(value, "instruction pairs"), 1):
        if not isinstance(pair, InstructionPair):
            raise SpecError(f"Instruction pair {i} is {kind_of(pair)}; it has to be an InstructionPair.")
        pos = checked_text(pair.pos, f"'pos' of instruction pair {i}")
        neg = checked_text(pair.neg, f"'neg' of instruction pair {i}")
        if text_key(pos) == text_key(neg):
            raise SpecError(f"'pos' and 'neg' of instruction pair {i} are the same; a pair has to differ in the trait.")
        pairs.append(InstructionPair(pos, neg))
    return tuple(pairs)


def _questions(value: object, what: str) -> tuple[str, ...]:
    questions = tuple(
        checked_text(entry, f"Entry {i} of the {what}") for i, entry in enumerate(_listed(value, what), 1)
    )
    seen: dict[str, int] = {}
    for i, question in enumerate(questions, 1):
        first = seen.setdefault(text_key(question), i)
        if first != i:
            raise SpecError(
                f"Entries {first} and {i} of the {what} are the same question: {shortened(question)}; drop one."
            )
    return questions


def _listed(value: object, what: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise SpecError(f"The {what} are {kind_of(value)}; they have to be a list.")
    if not value:
        raise SpecError(f"The trait has no {what}; give one at least, and better twenty questions or five pairs.")
    if len(value) > MAX_ENTRIES:
        raise SpecError(f"There are {len(value)} {what}; {MAX_ENTRIES} is the most.")
    return value


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: what may be meant, or what there is."""
    known = list(known)
    close = difflib.get_close_matches(word[:MAX_NAME].strip().lower(), known, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are {', '.join(known)}."


class _Dumper(yaml.SafeDumper):
    """Plain YAML, with texts of several lines as blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
