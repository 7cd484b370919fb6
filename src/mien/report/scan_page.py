"""A scan as one HTML page: self-contained, at home with ten thousand conversations, the worst first.

What counts is drawn here and stands without a script; the list of conversations, and each opened one with its chart
and its text, are drawn by `scan_page.js` from JSON in the page. Knows the report and nothing of how it was made.
"""

from __future__ import annotations

from pathlib import Path

from mien.report import scan_charts, scan_counts, scan_embed, scan_words, words
from mien.report.page import embed, render, write_page
from mien.report.scan_data import ScanReport

PAGE_NAME = "report.html"


def render_scan(report: ScanReport) -> str:
    """The page as text. Whatever the report holds is escaped: transcripts are hostile."""
    found = scan_counts.views(report)
    line = scan_counts.timeline(report)
    step = scan_embed.tint_step(report.details)
    texts = scan_embed.texts(report, step)
    models = {view.key: scan_counts.by_model(report, view) for view in found}
    shown = {"view": str(scan_counts.chosen(report)), "step": step, "kept": len(texts)}
    return render(
        "scan_page.html.jinja",
        styles=("scan_page.css",),
        scripts=("scan_page.js",),
        report=report,
        views=found,
        together=found[-1] if len(found) > 1 else None,
        shown=shown["view"],
        models=models,
        named=any(name for rows in models.values() for name, *_ in rows),
        timeline=line,
        charts=scan_charts,
        say=scan_words,
        words=words,
        lines=embed(scan_embed.lines(report, line) | shown),
        texts=embed(texts),
    )


def write_scan_page(report: ScanReport, folder: str | Path) -> Path:
    """Write `report.html` into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    return write_page(render_scan(report), Path(folder) / PAGE_NAME)
