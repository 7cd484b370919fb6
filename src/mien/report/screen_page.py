"""A screen as one HTML page: self-contained, without script. Knows the report and nothing of how it was made."""

from __future__ import annotations

from pathlib import Path

from mien.report import screen_charts, screen_words, words
from mien.report.card_page import cut
from mien.report.page import render, write_page
from mien.report.screen_data import ScreenReport

PAGE_NAME = "report.html"


def render_screen(report: ScreenReport) -> str:
    """The page as text. Whatever the report holds is escaped: data sets are hostile."""
    return render(
        "screen_page.html.jinja",
        styles=("screen_page.css",),
        report=report,
        charts=screen_charts,
        say=screen_words,
        words=words,
        cut=cut,
    )


def write_screen_page(report: ScreenReport, folder: str | Path) -> Path:
    """Write `report.html` into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    return write_page(render_screen(report), Path(folder) / PAGE_NAME)
