"""An audit as one HTML page: self-contained, without script. Knows the report and nothing of how it was made."""

from __future__ import annotations

from pathlib import Path

from mien.report import audit_charts, audit_words, words
from mien.report.audit_data import AuditReport
from mien.report.card_page import cut
from mien.report.page import render, write_page

PAGE_NAME = "audit.html"


def render_audit(report: AuditReport) -> str:
    """The page as text. Whatever the report holds is escaped: what models say is hostile."""
    return render(
        "audit_page.html.jinja",
        styles=("screen_page.css",),
        report=report,
        charts=audit_charts,
        say=audit_words,
        words=words,
        cut=cut,
    )


def write_audit_page(report: AuditReport, folder: str | Path) -> Path:
    """Write `audit.html` into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    return write_page(render_audit(report), Path(folder) / PAGE_NAME)
