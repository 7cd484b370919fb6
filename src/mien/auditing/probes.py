"""The library's open questions, and the questions that shifts are measured on. Does not know who is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import zip_longest
from pathlib import Path

from mien.entries import checked_text
from mien.errors import FormatError
from mien.spec import library_names, load_library
from mien.textfiles import parse_yaml, read_text

_FILE = Path(str(resources.files("mien"))) / "library" / "probes.yaml"


@dataclass(frozen=True, slots=True)
class Probe:
    """An open question, asked without a system prompt."""

    kind: str
    text: str


@cache
def load_probes(path: Path = _FILE) -> tuple[Probe, ...]:
    """Probes of a YAML file, the first of every kind first, so that the first few are a good spread.

    Raises:
        FormatError: it does not have `probes`, a mapping from kinds to lists of questions.
        SpecError: a question cannot be used.
    """
    data = parse_yaml(read_text(path, "file of probes"), path)
    kinds = data.get("probes") if isinstance(data, dict) else None
    if not isinstance(kinds, dict) or not all(isinstance(texts, list) and texts for texts in kinds.values()):
        raise FormatError(f"{path.name} has to hold `probes`, a mapping from kinds to lists of questions.")
    columns = [[Probe(str(kind), checked_text(text, "A probe")) for text in texts] for kind, texts in kinds.items()]
    return tuple(probe for row in zip_longest(*columns) for probe in row if probe is not None)


def eval_questions(count: int) -> tuple[str, ...]:
    """The first `count` eval questions of the library's traits, one of each in turn, none twice."""
    columns = [load_library(name).eval_questions for name in library_names()]
    every = [question for row in zip_longest(*columns) for question in row if question is not None]
    return tuple(dict.fromkeys(every))[:count]
