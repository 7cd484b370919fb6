"""The persona map as one HTML page: self-contained, with a script that moves points and asks for nothing.

Knows the report and nothing else: not how a role was judged, nor how any number was measured.
"""

from __future__ import annotations

from pathlib import Path

from mien.report import axis_charts, axis_words, words
from mien.report.axis_data import AxisReport
from mien.report.axis_map import map_data
from mien.report.page import embed, render, write_page

PAGE_NAME = "axis.html"


def render_axis(report: AxisReport) -> str:
    """The page as text. Whatever the report holds is escaped or embedded as inert JSON: model answers are hostile."""
    return render(
        "axis_page.html.jinja",
        styles=("axis.css",),
        scripts=("axis.js",),
        report=report,
        charts=axis_charts,
        say=axis_words,
        words=words,
        data=embed(map_data(report)),
    )


def write_axis_page(report: AxisReport, folder: str | Path) -> Path:
    """Write `axis.html` into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    return write_page(render_axis(report), Path(folder) / PAGE_NAME)
