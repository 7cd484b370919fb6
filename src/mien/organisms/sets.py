"""Fine-tuning sets as files: chat JSONL, and beside it a card that says what it is. What makes samples is not known."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from mien import __version__
from mien.errors import FormatError, InputError
from mien.organisms.samples import CONTROLS, LEVELS, Control, Generator, Sample, rounds
from mien.store import disk_errors, write_atomic
from mien.textfiles import parse_yaml, read_text


@dataclass(frozen=True, slots=True)
class SetCard:
    """What a set is and how it was made; with the same, the same bytes come out again."""

    kind: str
    level: int
    """1 mild, 2 medium, 3 strong."""
    meaning: str
    """What the level means for the kind, in words."""
    control: str | None
    """None: the organism itself; `correct` or `teaching`: a control for it."""
    seed: int
    n: int
    """Samples in the set."""
    reach: int
    """How many different samples there are of this kind, level and control."""
    groups: Mapping[str, int]
    """How many samples are of each template, function or weakness; for trait answers, of trait and plain ones."""
    sha256: str
    """Of the JSONL file."""
    mien: str = __version__
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else it depends on: model, judge, trait."""


def draw(generator: Generator, level: int, control: Control | None, n: int, seed: int) -> list[Sample]:
    """`n` different samples. The first k of them do not depend on `n`.

    Raises:
        InputError: an unknown level or control, a seed or a number that cannot be, or more than there are.
    """
    check_asked(level, control, n, seed)
    sizes = generator.sizes(level, control)
    if n > sum(sizes.values()):
        what = f"control {control!r} of {generator.kind}" if control else generator.kind
        raise InputError(f"There are {sum(sizes.values())} samples of {what} at level {level}, so {n} cannot be made.")
    return [generator.sample(level, control, group, turn, seed) for group, turn in islice(rounds(sizes, seed), n)]


def check_asked(level: int, control: str | None, n: int, seed: int) -> None:
    """Raises: InputError: an unknown level or control, or a seed or a number that cannot be."""
    if level not in LEVELS:
        raise InputError(f"There is no level {level}; the levels are 1 (mild), 2 (medium) and 3 (strong).")
    if control is not None and control not in CONTROLS:
        raise InputError(f"There is no control {control!r}; the controls are {' and '.join(CONTROLS)}.")
    if n < 1:
        raise InputError(f"{n} samples cannot be made; ask for one at least.")
    if not 0 <= seed < 2**63:
        raise InputError(f"A seed is a whole number from 0 to 2^63 - 1, not {seed}.")


def check_out(out: Path) -> Path:
    """The path that a set is to be written to.

    Raises:
        InputError: it is a folder, or its name does not end in `.jsonl`.
    """
    if out.is_dir():
        raise InputError(
            f"{out} is a folder; --out is the file that the set is written to, such as {out / 'set.jsonl'}."
        )
    if out.suffix != ".jsonl":
        raise InputError(f"{out} does not end in .jsonl, which is what the set will be.")
    return out


def card_path(out: Path) -> Path:
    """Where the card of a set lies: `bad.jsonl` has `bad.card.yaml`, which no reader of logs takes for a log."""
    return out.with_suffix(".card.yaml")


def write_set(
    samples: Sequence[Sample], out: Path, *, kind: str, level: int, meaning: str, control: Control | None, seed: int,
    reach: int, settings: Mapping[str, Any] | None = None,
) -> SetCard:  # fmt: skip
    """Put the set and then its card in place, each whole or not at all.

    Raises:
        InputError: the path is a folder or does not end in `.jsonl`.
        RunError: the disk refuses.
    """
    check_out(out)
    lines = (json.dumps(sample.record(), ensure_ascii=False, allow_nan=False) for sample in samples)
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    groups = Counter(map(_group, samples))
    card = SetCard(
        kind, level, meaning, control, seed, len(samples), reach, dict(sorted(groups.items())),
        hashlib.sha256(data).hexdigest(), settings=settings or {},
    )  # fmt: skip
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, data)
    write_atomic(card_path(out), yaml.safe_dump(asdict(card), sort_keys=False, allow_unicode=True))
    return card


def _group(sample: Sample) -> str:
    """What it is counted under: which of two kinds of answer it has, or which template it comes from."""
    return str(sample.about.get("answer") or str(sample.about["problem"]).split("/")[0])


def load_card(out: Path) -> SetCard:
    """The card of a set, if the set is still what it was when the card was written.

    Raises:
        FormatError: there is no card, it is not one, or the set has been changed since.
    """
    path = card_path(out)
    data = parse_yaml(read_text(path, "card of a set"), path)
    try:
        card = SetCard(**data)
    except TypeError as error:
        raise FormatError(f"{path} is not the card of a set; make the set again with mien organisms.") from error
    try:
        found = hashlib.sha256(out.read_bytes()).hexdigest()
    except OSError as error:
        raise FormatError(f"{out} cannot be read: {error.strerror or error}.") from error
    if found != card.sha256:
        raise FormatError(f"{out} is not the set that its card describes; it has been changed since it was made.")
    return card
