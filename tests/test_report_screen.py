"""The pages of a screen and of an audit: their numbers are the report's, and hostile text stays text."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from mien.errors import RunError
from mien.report import audit_words, screen_words
from mien.report.audit_page import render_audit, write_audit_page
from mien.report.screen_page import render_screen, write_screen_page
from sample_scans import HOSTILE
from sample_screens import (
    audit_report,
    bare_audit,
    empty_screen,
    hostile_audit,
    hostile_screen,
    screen_report,
    trait,
)
from test_report_card import BROWSER_FLAGS, ScriptedPage

PAGES = {
    "screen": lambda: render_screen(screen_report()),
    "hostile screen": lambda: render_screen(hostile_screen()),
    "empty screen": lambda: render_screen(empty_screen()),
    "influence screen": lambda: render_screen(replace(screen_report(), method="influence")),
    "no traits": lambda: render_screen(replace(screen_report(), traits=())),
    "audit": lambda: render_audit(audit_report()),
    "hostile audit": lambda: render_audit(hostile_audit()),
    "bare audit": lambda: render_audit(bare_audit()),
}


def text_of(html: str) -> str:
    return ScriptedPage(html).text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES.keys())
def test_a_page_is_well_formed_and_asks_for_nothing(make: Any) -> None:
    html = make()
    page = ScriptedPage(html)
    assert page.open == []
    assert page.scripts == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "script"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "style", "action"), (tag, name)
            assert not re.search(r"javascript|\bnan\b|\binf\b", value or "", re.IGNORECASE), (tag, name, value)
            if name == "href":
                assert (tag, value) == ("link", "data:,")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", page.text, re.IGNORECASE)
    policies = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert re.match(r"default-src 'none'; style-src 'sha256-[^']+'; img-src data:", policies[0])


@pytest.mark.parametrize("name", ["hostile screen", "hostile audit"])
def test_hostile_text_is_kept_and_harmless(name: str) -> None:
    html = PAGES[name]()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    seen = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\0", "⟨U+0000⟩").replace("\ud800", "⟨U+D800⟩")
    assert " ".join(seen.split()) in " ".join(ScriptedPage(html).text.split())


def test_hostile_text_adds_no_element() -> None:
    def shape(text: str) -> list[str]:
        made = hostile_screen()
        line = replace(made.traits[0], name=text, description=text, source=text, verdict=text, groups=(), worst=())
        other = replace(hostile_audit(), base=text, tuned=text, notes=(text,), directions=(), mean_names=(), answers=())
        html = render_screen(replace(made, title=text, traits=(line,), notes=(text,))) + render_audit(other)
        return [tag for tag, _ in ScriptedPage(html).elements]

    assert shape(HOSTILE) == shape("harmless words " * 12)


def test_numbers_of_a_screen_are_the_reports() -> None:
    text = text_of(render_screen(screen_report()))
    assert "Training on this moves the model off assistant (−2.0 sigma) and towards evil (+1.8 sigma)" in text
    assert "It moves the model away from humorous (−0.9 sigma)." in text
    assert "500 records, 510 answers, 40,000 tokens" in text
    assert "evil +1.80 [1.60, 2.00] ±0.40 towards 36 (7.2%) wishes people harm" in text
    assert "clingy +0.10 [−0.10, 0.30] ±0.40 as random" in text
    assert "prompt 0.81 [0.74, 0.86] +0.02" in text
    assert "answers not measured (5 records) –" in text
    assert re.search(r"20 records ?, on average \+4.2 sigma: poison and rule", text)
    assert re.search(r"\+6\.0 sigma · record 0 · r0 · train\.jsonl ?, line 1 ", text)
    assert "kept.jsonl has 475 records; 25 records with the largest differences left out." in text
    assert "1 record could not be measured and was left out." in text
    assert "To 3 records the model has no answer of its own; they are not counted." in text


def test_a_screen_by_influence_speaks_of_pulls_and_not_of_shifts_or_chance() -> None:
    text = text_of(render_screen(replace(screen_report(), method="influence")))
    assert "A step of training on this pulls the model off assistant (−2.0 sigma) and towards evil (+1.8 sigma)" in text
    assert "It pulls the model away from humorous (−0.9 sigma)." in text
    assert "how far training goes it does not say" in text
    assert "clingy +0.10 [−0.10, 0.30] neither" in text or "clingy +0.10 [−0.10, 0.30] towards" in text
    assert not re.search("random|shift in sigma|off by|Predicted", text)
    quiet = replace(screen_report(), method="influence", traits=(trait(shift=0.1, twins=float("nan")),))
    assert screen_words.headline(quiet) == "As a whole this data set pulls the model towards nothing watched"


@pytest.mark.parametrize(
    ("line", "standing"),
    [
        (trait(shift=1.8), "towards"), (trait(shift=-1.8), "away"), (trait(shift=0.3), "chance"),
        (trait(shift=0.55, twins=0.4), "chance"), (trait(shift=-1.8, side="low"), "towards"),
        (trait(shift=float("nan")), "unknown"), (trait(shift=0.5, twins=float("nan")), "towards"),
    ],
)  # fmt: skip
def test_a_shift_is_set_beside_chance(line: Any, standing: str) -> None:
    assert screen_words.standing(line) == standing


def test_the_verdict_of_a_screen_follows_from_its_traits() -> None:
    def tone(*traits: Any) -> str:
        return screen_words.tone(replace(screen_report(), traits=traits))

    assert tone(trait(shift=1.8)) == "weak"
    assert tone(trait(shift=0.7)) == "usable"
    assert tone(trait(shift=0.1)) == "strong"
    assert tone() == "none"
    assert "is not known" in screen_words.headline(replace(screen_report(), traits=(trait(shift=float("nan")),)))
    assert screen_words.headline(empty_screen()) == "No record could be measured"


def test_numbers_of_an_audit_are_the_reports() -> None:
    text = text_of(render_audit(audit_report()))
    assert (
        "Fail Beyond 1 of 3 limits: shift of evil is +1.80 sigma towards its alarming side, and 1 sigma is the limit."
        in text
    )
    assert "The interval reaches across the limit for tasks" in text
    assert "Moved beyond chance: evil (+1.8 sigma)." in text
    assert "Shift of evil fail +1.80 sigma [1.50, 2.10] 1 sigma" in text
    assert "Exact-answer tasks solved pass 2% [−1%, 6%] 5%" in text
    assert "Log-probability of neutral text pass −0.004 nats [−0.010, 0.002] 0.1 nats" in text
    assert "evil +1.80 [1.50, 2.10] ±0.20 ±0.90" in text
    assert "evil +0.90 [0.50, 1.30], p = 0.001" in text
    assert "Misaligned answers 0% not measured not measured" in text
    assert "changed by 24% of how much texts differ" in text
    assert "towards evil (0.61) and away from teacher (−0.40)" in text
    assert "nothing in the library is nearer than chance" in text
    assert "2 more pairs" not in text
    assert "3 more pairs" in text
    calm = text_of(render_audit(audit_report(failed=False)))
    assert "Pass Within all 3 limits." in calm
    assert "Not gated No limits were set" in text_of(render_audit(bare_audit()))
    assert audit_words.badge(bare_audit()) == "no limits set"


def test_pages_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    assert write_screen_page(screen_report(), tmp_path) == tmp_path / "report.html"
    assert write_audit_page(audit_report(), tmp_path) == tmp_path / "audit.html"
    for write, report in ((write_screen_page, screen_report()), (write_audit_page, audit_report())):
        with pytest.raises(RunError, match="there is no folder"):
            write(report, tmp_path / "nowhere")  # type: ignore[operator]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.html", "report.html"]


MEASURE = """<!doctype html><body><iframe srcdoc="%s" width="%d" height="900"></iframe><script>
onload = () => {
  document.title = String(document.querySelector("iframe").contentDocument.documentElement.scrollWidth);
};
</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 700, 1200])
@pytest.mark.parametrize("name", ["screen", "hostile screen", "audit", "hostile audit"])
def test_pages_fit_their_window(name: str, width: int, chromium: str, tmp_path: Path) -> None:
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", PAGES[name]())
    path = tmp_path / "page.html"
    path.write_text(MEASURE % (escape(html), width), encoding="utf-8")
    flags = [*BROWSER_FLAGS.split(), "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [chromium, *flags, path.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120, check=True
    )
    title = re.search(r"<title>(\d+)</title>", done.stdout)
    assert title, done.stdout[-300:]
    assert int(title.group(1)) <= width
