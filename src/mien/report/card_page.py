"""A direction's card as one HTML page: self-contained, without script, readable in a minute.

Knows the card and nothing else: not the disk beyond the one file it writes, not how any number was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mien.card import Card
from mien.report import card_charts, card_words, words
from mien.report.page import render, write_page

PAGE_NAME = "card.html"
_LEAD = 700
"""Characters of a long text that are shown at once; the rest opens on demand."""
_SPEC_TITLES = {
    "instruction": "Instruction pairs",
    "instructions": "Instruction pairs",
    "questions": "Questions",
    "extract_questions": "Questions the direction was made from",
    "eval_questions": "Questions it was tested on",
    "rubric": "Rubric of the judge",
    "eval_prompt": "Prompt of the judge",
    "author": "Author of the spec",
}


def render_card(card: Card) -> str:
    """The page as text. Whatever the card holds is escaped: model answers are hostile."""
    return render(
        "card_page.html.jinja",
        card=card,
        best=card_words.best_layer(card),
        charts=card_charts,
        say=card_words,
        words=words,
        cut=cut,
        spec=list(_spec_parts(card.spec or {})),
        trial_columns=list(dict.fromkeys(key for trial in card.layer_trials for key in trial)),
    )


def write_card_page(card: Card, folder: str | Path) -> Path:
    """Write `card.html` into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    return write_page(render_card(card), Path(folder) / PAGE_NAME)


def cut(text: str) -> tuple[str, str]:
    """What of a text is shown at once, and the rest; cut between words where there are any."""
    if len(text) <= _LEAD * 1.2:
        return text, ""
    space = text.rfind(" ", _LEAD - 80, _LEAD)
    at = space + 1 if space > 0 else _LEAD
    return text[:at], text[at:]


@dataclass(frozen=True, slots=True)
class SpecPart:
    """One field of a trait spec in the form that suits it: pairs, a list, or text."""

    title: str
    pairs: tuple[tuple[str, str], ...] = ()
    items: tuple[str, ...] = ()
    text: str = ""

    @property
    def size(self) -> int:
        """How many pairs or items."""
        return len(self.pairs) or len(self.items)


def _spec_parts(spec: dict[str, object]) -> Iterator[SpecPart]:
    """Fields of a spec in its own order; name and description stand in the page's head already.

    A spec of somebody else's may have any shape: what is not recognised is shown as JSON.
    """
    for key, value in spec.items():
        title = _SPEC_TITLES.get(key, key)
        if key in ("name", "description") or value in (None, "", [], {}):
            continue
        if isinstance(value, list) and all(isinstance(item, dict) and set(item) == {"pos", "neg"} for item in value):
            yield SpecPart(title, pairs=tuple((words.plain(item["pos"]), words.plain(item["neg"])) for item in value))
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield SpecPart(title, items=tuple(value))
        elif isinstance(value, dict | list):
            yield SpecPart(title, text=json.dumps(value, ensure_ascii=False, indent=2, default=str))
        else:
            yield SpecPart(title, text=words.plain(value))
