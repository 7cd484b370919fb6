"""A calibrated hold as one HTML page: self-contained, without script. Knows the card and nothing of how it was made."""

from __future__ import annotations

from pathlib import Path

from mien.holds import HoldCard
from mien.report import hold_charts, hold_words, words
from mien.report.card_page import cut
from mien.report.page import render, write_page

PAGE_NAME = "hold.html"


def render_hold(card: HoldCard) -> str:
    """The page as text. Whatever the card holds is escaped: what models say under attack is hostile."""
    return render(
        "hold_page.html.jinja",
        styles=("screen_page.css", "hold_page.css"),
        card=card,
        charts=hold_charts,
        say=hold_words,
        words=words,
        cut=cut,
    )


def write_hold_page(card: HoldCard, folder: str | Path) -> Path:
    """Write `hold.html` into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    return write_page(render_hold(card), Path(folder) / PAGE_NAME)
