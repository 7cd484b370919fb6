"""The scan's page: its numbers are the report's, hostile transcripts stay text, and ten thousand of them fit."""

from __future__ import annotations

import json
import math
import re
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from mien.errors import RunError
from mien.report import scan_embed, scan_words
from mien.report.scan_counts import Share, by_model, by_period, chance_range, day_of, timeline, views
from mien.report.scan_data import ConversationDetail, ConversationLine, GaugeLine, ScanReport, Tallies, Tally, Together
from mien.report.scan_page import render_scan, write_scan_page
from sample_scans import HOSTILE, hostile_scan, scan
from test_report_card import BROWSER_FLAGS, ScriptedPage, browse


class ScanPage(ScriptedPage):
    """A scan's page, its text with plain blanks."""

    @property
    def text(self) -> str:
        return super().text.replace("\N{NO-BREAK SPACE}", " ")


def embedded(html: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Both pieces of JSON, found as a browser finds them: lines of all, texts of the worst."""
    lines, texts, _ = ScanPage(html).scripts
    return json.loads(lines), json.loads(texts)


def shown(html: str, view: str) -> str:
    """The headline of one view."""
    found = re.search(rf'data-view="{view}"[^>]*>\s*<h1[^>]*>(.*?)</h1>', html)
    assert found
    return found.group(1)


REPORTS = {
    "full": scan,
    "hostile": hostile_scan,
    "one": lambda: scan(1, details=1, gauges=1, times=False),
    "empty": lambda: scan(0, details=0),
    "no times": lambda: scan(30, details=3, times=False),
    "no gauges": lambda: scan(0, details=0, gauges=0),
    "without text": lambda: scan(30, details=0),
}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_page_is_well_formed_and_asks_for_nothing(make: Any) -> None:
    html = render_scan(make())
    page = ScanPage(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "style", "action"), (tag, name)
            assert not re.search(r"alert|javascript|\bnan\b|\binf\b", value or "", re.IGNORECASE), (tag, name, value)
            if name == "href":
                assert (tag, value) == ("link", "data:,")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of)", page.text, re.IGNORECASE)
    policies = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert re.match(r"default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+'; img", policies[0])


def test_script_makes_no_markup_of_data() -> None:
    *_, code = ScanPage(render_scan(scan(3, details=1))).scripts
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch(", "Function("):
        assert word not in code, word


def test_hostile_text_is_kept_word_for_word_and_cannot_end_its_element() -> None:
    html = render_scan(hostile_scan())
    page = ScanPage(html)
    assert len(page.scripts) == 3
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    for part in ("lines", "texts"):
        raw = re.search(rf'id="{part}">(.*?)</script>', html, re.DOTALL)
        assert raw
        assert not re.search("[<>&\u2028\u2029]", raw.group(1))
    seen = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\0", "⟨U+0000⟩").replace("\ud800", "⟨U+D800⟩")
    lines, texts = embedded(html)
    assert lines["id"][0] == lines["models"][0] == lines["sources"][0] == seen
    assert [turn["text"] for turn in texts[0]["turns"]] == [seen, seen * 3]
    assert len(texts) == 1, "a detail that belongs to no conversation is left out"
    assert page.text.count("</script><script>document.title = 'taken'</script>") > 8


def test_hostile_text_adds_no_element_and_no_attribute() -> None:
    def shape(report: ScanReport) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in ScanPage(render_scan(report)).elements]

    def saying(text: str) -> ScanReport:
        report = scan(3, details=1, gauges=1)
        line = replace(report.conversations[0], id=text, source=text, model=text)
        gauge = replace(report.gauges[0], name=text, description=text, note=text)
        return replace(
            report, title=text, reader=text, made=text, baseline=text, notes=(text,), gauges=(gauge,),
            conversations=(line, line, line), skipped=((text, 1, text),),
        )  # fmt: skip

    assert shape(saying(HOSTILE)) == shape(saying("harmless words " * 12))


def test_numbers_of_the_page_are_the_reports() -> None:
    report = scan(840)
    html = render_scan(report)
    text = ScanPage(html).text
    for k, gauge in enumerate(report.gauges):
        said = {"assistant": "left the Assistant&#39;s character"}.get(gauge.name, f"drifted on “{gauge.name}”")
        share = scan_words.share(gauge.drifted / 840)
        assert shown(html, str(k)) == f"{gauge.drifted} of 840 conversations {said} ({share})"
        low, high = binomtest(gauge.drifted, 840).proportion_ci(method="wilson")
        row = (
            f"{gauge.drifted} {share} [{scan_words.share(low)}, {scan_words.share(high)}] 42 (5%) {gauge.turns_alarmed}"
        )
        assert f"{gauge.name} {row}" in text
    anywhere = sum(max(line.scores) >= 1 for line in report.conversations)
    assert f"On at least one of the 3 gauges: {anywhere} of 840; by chance alone: 42 to 126." in text
    assert shown(html, "any").startswith(f"{anywhere} of 840 conversations drifted on at least one gauge")
    assert "By chance alone between 42 and 126 would" in text
    assert f"840 conversations, {report.n_turns:,} turns, {report.n_tokens:,} tokens · read by SmolLM2" in text
    assert "A turn alarms below −2.4 sigma; read at layer 17. Length explains 12% of its spread." in text
    assert "2 records could not be read and were left out." in text
    assert "chats-2025-03.jsonl 91 not JSON (column 112)" in text
    for model in ("orchard-large", "finch-2"):
        own = [line.scores[0] >= 1 for line in report.conversations if line.model == model]
        assert re.search(rf"{model} {len(own)} {sum(own)} ", text)


def test_lines_and_texts_reach_the_script_whole() -> None:
    report = scan(60, details=7, share=0.3)
    lines, texts = embedded(render_scan(report))
    assert lines["id"] == [line.id for line in report.conversations]
    assert [lines["models"][code] for code in lines["model"]] == [line.model for line in report.conversations]
    for g in range(3):
        assert lines["left"][g] == [line.left_at[g] for line in report.conversations]
        assert lines["scores"][g] == pytest.approx([line.scores[g] for line in report.conversations], abs=1e-3)
    assert (lines["view"], lines["kept"]) == ("0", 7)
    assert [gauge["at"] for gauge in lines["gauges"]] == [-2.4, 2.3, 2.3]
    for found, given_detail in zip(texts, report.details, strict=True):
        assert (found["index"], found["gauge"]) == (given_detail.index, given_detail.gauge)
        for turn, whole in zip(found["turns"], given_detail.turns, strict=True):
            assert (turn["at"], turn["role"], turn["text"]) == (whole.message_index, whole.role, whole.text)
            assert turn["alarm"] == list(whole.alarm)
            assert [value is None for value in turn["sigma"]] == [value is None for value in whole.sigma]


@pytest.mark.parametrize(
    ("drifted", "total", "quiet", "standing", "said"),
    [
        (12, 840, (50, 1000), "fewer", "Fewer than chance alone would make: as a whole these logs show no drift."),
        (40, 840, (50, 1000), "same", "No more than chance alone can make: the count by itself is no evidence"),
        (90, 840, (50, 1000), "more", "More than chance alone would make: these conversations read unlike"),
        (90, 840, (5, 100), "same", "By chance alone about 42 would: 5 of 100 ordinary conversations drifted, 5% ["),
        (1, 1, (5, 100), "unknown", "One conversation says nothing about a rate"),
        (3, 40, (0, 0), "unknown", "How many would by chance alone is not known"),
        (0, 40, (0, 100), "same", "By chance alone fewer than one would: 0 of 100 ordinary conversations drifted, 0%"),
    ],
)
def test_a_count_is_set_beside_chance(
    drifted: int, total: int, quiet: tuple[int, int], standing: str, said: str
) -> None:
    gauge = GaugeLine("assistant", "d", "low", 3, 2.0, (1, 100), quiet, 0, drifted)
    lines = tuple(
        ConversationLine(f"c{k}", None, None, "f", k, 4, (1.5 if k < drifted else 0.5,), (None,)) for k in range(total)
    )
    report = replace(scan(0, details=0), gauges=(gauge,), conversations=lines, n_turns=4 * total)
    assert scan_words.standing(views(report)[0]) == standing
    assert said in ScanPage(render_scan(report)).text


def test_gauges_that_share_limits_have_one_rate_together_and_others_bounds() -> None:
    report = scan(840)
    quiet = ((4, 126), (0, 126), (2, 126))
    each = tuple(replace(g, quiet_conversations=q) for g, q in zip(report.gauges, quiet, strict=True))
    first, second, _, together = views(replace(report, gauges=each, together=Together(0.05, (6, 126))))
    assert scan_words.by_chance(first).replace("\N{NO-BREAK SPACE}", " ") == (
        "By chance alone about 27 would: 4 of 126 ordinary conversations drifted, 3.2% [1.2%, 7.9%]; "
        "in logs of this size 5 to 82 can be chance."
    )
    assert (second.chance, scan_words.expected_range(second)) == ((0.0, 0.0), "<25 (<3%)")
    assert together.quiet == Share(6, 126)
    assert scan_words.by_chance(together).startswith(
        "By chance alone about 40 would: the alarm is set so that 5% of ordinary conversations drift on any gauge, "
        "and 6 of 126 did, 4.8% ["
    )
    apart = views(replace(report, gauges=each))[-1]
    assert apart.chance == pytest.approx((4 / 126, 6 / 126))
    assert apart.margin == pytest.approx((Share(4, 126).interval[0], sum(Share(*q).interval[1] for q in quiet)))
    assert "By chance alone between 27 and 40 would" in scan_words.by_chance(apart)
    calm = views(replace(report, gauges=each[:2]))[-1]
    assert scan_words.by_chance(calm).startswith(
        "By chance alone about 27 would: each gauge has false alarms of its own"
    )
    alone = views(replace(report, gauges=each[:1], together=Together(0.05, (4, 126))))[0]
    assert "so that 5% of ordinary conversations drift on it, and 4 of 126" in scan_words.by_chance(alone)


@pytest.mark.parametrize(
    ("count", "total", "said"),
    [
        (0, 0, "No conversation was read"),
        (0, 1, "The one conversation that was read did not leave the Assistant's character"),
        (1, 1, "The one conversation that was read left the Assistant's character"),
        (0, 9, "None of 9 conversations left the Assistant's character"),
        (9, 9, "All 9 conversations left the Assistant's character"),
        (1, 12_345, "1 of 12,345 conversations left the Assistant's character (<0.01%)"),
    ],
)
def test_headlines(count: int, total: int, said: str) -> None:
    view = replace(views(scan(0, details=0, gauges=1))[0], drifted=Share(count, total))
    assert scan_words.headline(view) == said


@pytest.mark.parametrize(("value", "said"), [
    (0.0, "0%"), (1.0, "100%"), (0.0143, "1.4%"), (0.05, "5%"), (0.124, "12%"), (0.0003, "0.03%"), (1e-6, "<0.01%"),
    (0.99999, "99.9%"), (0.9949, "99.4%"), (math.nan, "not measured"), (None, "not measured"),
])  # fmt: skip
def test_shares_in_words(value: float | None, said: str) -> None:
    assert scan_words.share(value) == said


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.floats(0.0005, 0.9995))
@example(1, 0.984375)
def test_what_chance_makes_is_the_binomial_range(n: int, rate: float) -> None:
    assert chance_range(n, rate) == (
        int(binom.ppf(0.025, n, rate)) if n else 0,
        int(binom.ppf(0.975, n, rate)) if n else 0,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_wilsons(counts: tuple[int, int]) -> None:
    low, high = binomtest(*counts).proportion_ci(method="wilson")
    assert Share(*counts).interval == pytest.approx((low, high), abs=1e-9)


def lines_at(times: list[str | None], score: float = 1.5) -> ScanReport:
    lines = tuple(ConversationLine(f"c{k}", "m", time, "f", k, 4, (score,), (1,)) for k, time in enumerate(times))
    return replace(scan(0, details=0, gauges=1), conversations=lines)


@pytest.mark.parametrize(
    ("times", "unit", "names", "counts"),
    [
        (["2025-03-01", "2025-03-03T23:30:00-02:00"], "day", ["2025-03-01", "2025-03-04"], [1, 0, 0, 1]),
        (["2025-03-05", "2025-05-20", "2025-03-03T00:00:00Z"], "week", ["2025-03-03", "2025-05-19"], [2, *[0] * 10, 1]),
        (["2024-12-31", "2025-12-01"], "month", ["2024-12", "2025-12"], [1, *[0] * 11, 1]),
        (["1990-01-01", "1996-01-01"], "year", ["1990", "1996"], [1, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_periods_fit_the_span(times: list[str | None], unit: str, names: list[str], counts: list[int]) -> None:
    report = lines_at([*[time for time in times for _ in range(100)], None, "yesterday"])
    line = timeline(report)
    assert line
    assert (line.unit, line.names[0], line.names[-1]) == (unit, *names)
    assert [part.total for part in by_period(line, views(report)[0])] == [100 * n for n in counts]
    assert "The time of 2 conversations is not known." in ScanPage(render_scan(report)).text


def test_few_conversations_get_longer_periods_and_absurd_times_do_no_harm() -> None:
    sparse = timeline(lines_at([f"2025-{month:02d}-{day:02d}" for month in (3, 4) for day in range(1, 21, 5)]))
    assert sparse
    assert sparse.unit == "week"
    report = lines_at(["0001-01-01T00:00:00+14:00", "0001-01-02", "2025-03-01", "9999-12-31T23:59:59-14:00"])
    line = timeline(report)
    assert line
    assert len(line.names) <= 120
    assert ScanPage(render_scan(report)).open == []
    assert "Over time" not in ScanPage(render_scan(lines_at([None, "never", "2025-03-01"]))).text


def test_many_models_share_a_row_behind_the_largest() -> None:
    lines = tuple(
        ConversationLine(f"c{k}", f"m{k % 50:02d}" if k % 51 else None, None, "f", k, 4, (k % 2 + 0.5,), (1,))
        for k in range(1000)
    )
    report = replace(scan(0, details=0, gauges=1), conversations=lines)
    rows = by_model(report, views(report)[0])
    assert len(rows) == 21
    assert rows[-1][0] == "31 others"
    assert sum(n for _, n, _ in rows) == 1000
    assert sum(part.count for *_, part in rows) == 500


def tally(lines: list[ConversationLine]) -> Tally:
    gone = [[value >= 1 for value in line.scores] for line in lines]
    return Tally(len(lines), (*(sum(of_gauge) for of_gauge in zip(*gone, strict=True)), sum(map(any, gone))))


def test_conversations_that_are_not_listed_are_counted() -> None:
    """By model and by period, on every gauge and on any: what the page says of all, with the worst of them listed."""
    whole = scan(600, share=0.1)
    whole = replace(whole, conversations=(*whole.conversations[:-1], replace(whole.conversations[-1], time=None)))
    models: dict[str | None, list[ConversationLine]] = {}
    days: dict[int, list[ConversationLine]] = {}
    for line in whole.conversations:
        models.setdefault(line.model, []).append(line)
        if (day := day_of(line.time)) is not None:
            days.setdefault(day, []).append(line)
    tallies = Tallies(
        tally(list(whole.conversations)), tuple((name, tally(part)) for name, part in models.items()),
        tuple((day, tally(part)) for day, part in days.items()),
    )  # fmt: skip
    worst = sorted(whole.conversations, key=lambda line: -max(line.scores))[:20]
    short = replace(whole, conversations=tuple(worst), details=(), left_out=580, tallies=tallies)
    periods, of_worst = timeline(whole), timeline(short)
    assert periods
    assert of_worst
    assert (of_worst.names, of_worst.known, of_worst.drawn) == (periods.names, 599, 599)
    assert len(of_worst.places) == 20
    for one, other in zip(views(whole), views(short), strict=True):
        assert other.drifted == one.drifted
        assert by_model(short, other) == by_model(whole, one)
        assert by_period(of_worst, other) == by_period(periods, one)
    text = ScanPage(render_scan(short)).text
    assert "580 conversations more were read and counted above; the list below is of the worst" in text
    assert "The time of 1 conversation is not known." in text
    said = "filters cover the worst 20 conversations only. 580 conversations more are counted above and cannot be found"
    assert said in text
    assert "filters cover" not in ScanPage(render_scan(whole)).text


def test_ten_thousand_conversations_fit() -> None:
    html = render_scan(scan(10_000, details=200, share=0.05))
    assert len(html.encode()) < 4_000_000
    lines, texts = embedded(html)
    assert (len(lines["id"]), len(texts)) == (10_000, 200)
    assert len(html) - sum(map(len, ScanPage(html).scripts)) < 200_000, "rows belong to the script, not to the markup"


def test_texts_have_a_limit_and_say_so() -> None:
    report = scan(5, details=5)
    long = replace(report.details[0].turns[1], text="a" * 50_000, tokens=(), tints=())
    details = (ConversationDetail("x", report.details[0].index, (long,), 0), *report.details[1:])
    _, texts = embedded(render_scan(replace(report, details=details)))
    assert (len(texts[0]["turns"][0]["text"]), texts[0]["turns"][0]["more"]) == (20_000, 30_000)
    huge = ConversationDetail("x", report.details[0].index, (replace(long, text="b" * 20_000),) * 700, 0)
    lines, texts = embedded(render_scan(replace(report, details=(huge, *report.details[1:]))))
    assert (lines["kept"], len(texts)) == (4, 4)


def test_a_score_below_one_never_looks_like_one() -> None:
    report = lines_at([None, None], 0.99999)
    assert embedded(render_scan(report))[0]["scores"] == [[0.999, 0.999]]


def spans(text: str, runs: list[int]) -> list[tuple[str, int]]:
    """The runs as the script reads them: lengths in UTF-16 units."""
    raw, at, found = text.encode("utf-16-le"), 0, []
    for length, level in zip(runs[::2], runs[1::2], strict=True):
        found.append((raw[2 * at : 2 * (at + length)].decode("utf-16-le"), level))
        at += length
    return found


@pytest.mark.parametrize(
    ("text", "tokens", "tints", "expected"),
    [
        ("one two three", ("one", " two", " three"), (0.2, 3.5, -9), [("one", 0), (" two", 1), (" three", -3)]),
        ("one two", ("one", " two"), (5.0, 4.0), [("one two", 1)]),
        ("one two", ("one", " two"), (7.0, 0.0), [("one", 2)]),
        ("\n\n  one two", ("<s>", "one", " two"), (9.0, 4.0, 0.0), [("\n\n  ", 0), ("one", 1)]),
        ("a😀b", ("a", "\ufffd", "\ufffd", "b"), (0.0, 9.0, 9.0, 9.0), [("a😀", 0), ("b", 3)]),
        ("x😀y", ("x", "😀", "y"), (0.0, 3.0, 0.0), [("x", 0), ("😀", 1)]),
        ("a\r\nb", ("a", "\r\n", "b"), (3.0, 3.0, 3.0), [("a\nb", 1)]),
        ("abc", ("z", "q"), (9.0, 9.0), []),
        ("abc", (), (), []),
        ("abc", ("abc",), (math.nan,), []),
    ],
)
def test_tints_lie_on_their_tokens(
    text: str, tokens: tuple[str, ...], tints: tuple[float, ...], expected: list[tuple[str, int]]
) -> None:
    shown_text = scan_embed.clean(text)
    assert spans(shown_text, scan_embed.tinted_runs(shown_text, tokens, tints, 3.0)) == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.text(), st.floats(-20, 20))), st.text())
def test_runs_never_leave_the_text(pieces: list[tuple[str, float]], noise: str) -> None:
    text = scan_embed.clean("".join(piece for piece, _ in pieces))
    tokens = tuple(piece for piece, _ in pieces)
    for given_tokens in (tokens, (noise, *tokens), tokens[::-1]):
        runs = scan_embed.tinted_runs(text, given_tokens, (4.0,) * len(given_tokens), 2.0)
        assert all(length > 0 for length in runs[::2])
        assert sum(runs[::2]) <= len(text.encode("utf-16-le")) // 2
        spans(text, runs)


def test_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_scan_page(scan(5, details=2), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render_scan(scan(5, details=2))
    write_scan_page(hostile_scan(), str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RunError, match=r"Cannot write report\.html: there is no folder .* Create it first\."):
        write_scan_page(scan(1, details=0), tmp_path / "absent")


@pytest.mark.browser
@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_browser_shows_the_page_without_a_complaint(make: Any, chromium: str, tmp_path: Path) -> None:
    """With the policy in force: the script runs, lists the worst first, and nothing is refused."""
    report = make()
    document, console = browse(chromium, render_scan(report), tmp_path)
    assert console == []
    page = ScanPage(document)
    rows = [a["data-index"] for tag, a in page.elements if tag == "tr" and "data-index" in a]
    assert len(rows) == min(len(report.conversations), 50)
    assert "taken" not in re.findall(r"<title>(.*?)</title>", document)[0] or report.title == HOSTILE
    if make is scan:
        worst = max(report.conversations, key=lambda line: line.scores[0])
        assert report.conversations[int(rows[0] or "")] is worst
        assert shown(document, "0").startswith(f"{report.gauges[0].drifted} of 840 conversations left")
        assert f"{report.gauges[0].drifted} drifted. Words are found in the texts of the worst 40 only." in page.text
        assert f"{worst.id} line {worst.line} of chats-2025-03.jsonl {worst.model}" in page.text


DRIVER = """<script>(async () => {
  const say = [], $ = id => document.getElementById(id), wait = () => new Promise(done => setTimeout(done, 50));
  const press = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const rows = () => [...document.querySelectorAll("#rows tr")];
  const change = (id, value) => {
    $(id).value = value;
    for (const name of ["input", "change"]) $(id).dispatchEvent(new Event(name));
  };
  const name = () => $("talk").hidden ? "list" : $("talk-name").textContent;
  try { %s } catch (error) { say.push("failed: " + error.stack); }
  document.body.replaceChildren();
  document.title = JSON.stringify(say);
})();</script></body>"""


def drive(chromium: str, html: str, steps: str, folder: Path) -> Any:
    """What `steps` put into `say` in the page, whose policy is taken off so that they may run."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    path = folder / "driven.html"
    path.write_text(free.replace("</body>", DRIVER % steps), encoding="utf-8")
    flags = [*BROWSER_FLAGS.split(), "--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [chromium, *flags, path.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stdout[:300]
    return json.loads(ScanPage(title.group()).text)


@pytest.mark.browser
def test_a_person_finds_opens_and_leaves_conversations_by_keyboard(chromium: str, tmp_path: Path) -> None:
    report = scan(300, details=20, share=0.1)
    order = sorted(range(300), key=lambda k: (-report.conversations[k].scores[0], k))
    ids = [report.conversations[k].id for k in order]
    steps = """
      rows()[0].querySelector("a").focus(); press("ArrowDown"); say.push(document.activeElement.textContent);
      document.activeElement.click(); await wait(); say.push(name(), $("place").textContent);
      press("ArrowRight"); await wait(); say.push(name());
      press("ArrowLeft"); await wait(); press("ArrowLeft"); await wait(); say.push(name());
      say.push($("talk-told").textContent, document.querySelectorAll("#left-here + article.turn").length);
      press("l"); say.push(document.activeElement.textContent.includes("message " + LEFT));
      say.push(document.querySelectorAll("mark.h1t, mark.h2t, mark.h3t").length > 10);
      const chart = $("talk-chart");
      say.push(chart.querySelectorAll(".alarm-band, .left-line, .cusum-line").length);
      press("g"); say.push(document.querySelector("#talk-gauges [aria-pressed=true] span").textContent);
      press("Escape"); await wait(); say.push(name(), document.activeElement.textContent);
    """
    worst = report.conversations[order[0]]
    said = drive(chromium, render_scan(report), steps.replace("LEFT", str(worst.left_at[0])), tmp_path)
    score = f"{math.floor(worst.scores[0] * 100) / 100:.2f}"
    assert said == [
        ids[1], ids[1], "2 of 300", ids[2], ids[0],
        f"Left the Assistant’s character at message {worst.left_at[0]}: score {score} (1 is drifted).",
        1, True, True, 3, "delusion feeding", "list", ids[0],
    ]  # fmt: skip


@pytest.mark.browser
def test_the_list_is_sorted_filtered_searched_and_paged(chromium: str, tmp_path: Path) -> None:
    report = scan(300, details=20, share=0.1)
    lines = report.conversations
    steps = """
      const first = () => rows()[0].querySelector("a")?.textContent ?? "none";
      $("page-on").click(); say.push($("page-at").textContent, rows().length);
      document.querySelector("#heads .turns button").click(); say.push(rows()[0].querySelector(".turns").textContent);
      document.querySelector("#heads .turns button").click(); say.push(rows()[0].querySelector(".turns").textContent);
      change("model", "1"); say.push($("found").textContent);
      change("model", ""); $("only").checked = true; change("only", "on"); say.push($("found").textContent);
      change("gauge", "any"); say.push($("found").textContent);
      say.push(document.querySelector("h1:not([hidden] *)").textContent);
      $("only").checked = false; change("gauge", "0"); change("find", "ID"); say.push(first(), rows().length);
      change("find", "the pattern chose us both"); say.push(rows().length > 0);
      change("find", "no such words"); say.push(first()); change("find", "");
      document.querySelector(".period:not([hidden] *)").dispatchEvent(new MouseEvent("click", { bubbles: true }));
      say.push(rows().every(row => row.querySelector(".when").textContent.startsWith("2025-03-03")), rows().length);
    """
    said = drive(chromium, render_scan(report), steps.replace("ID", lines[123].id), tmp_path)
    counted = [line for line in lines if line.model == sorted_models(lines)[1]]
    drifted = sum(line.scores[0] >= 1 for line in lines)
    anywhere = sum(max(line.scores) >= 1 for line in lines)
    tail = " Words are found in the texts of the worst 20 only."
    line = timeline(report)
    assert line
    assert line.unit == "day"
    first_day = sum(place == 0 for place in line.places)
    assert said[:4] == ["51 to 100 of 300", 50, "14", "8"]
    assert said[4] == (f"{len(counted)} of 300 conversations, {sum(x.scores[0] >= 1 for x in counted)} drifted.{tail}")
    assert said[5] == f"{drifted} of 300 conversations, {drifted} drifted.{tail}"
    assert said[6] == f"{anywhere} of 300 conversations, {anywhere} drifted.{tail}"
    assert said[7].startswith(f"{anywhere} of 300 conversations drifted on at least one gauge")
    assert said[8:12] == [lines[123].id, 1, True, "none"]
    assert said[12:] == [True, first_day]


def sorted_models(lines: tuple[ConversationLine, ...]) -> list[str | None]:
    """Models in the order in which they first occur, as the page codes them."""
    return list(dict.fromkeys(line.model for line in lines))


@pytest.mark.browser
def test_a_hostile_conversation_opens_as_text(chromium: str, tmp_path: Path) -> None:
    steps = """
      rows()[0].querySelector("a").click(); await wait();
      say.push(document.querySelectorAll("img, iframe, #turns script").length, document.title.startsWith("taken"));
      const texts = [...document.querySelectorAll("#turns .said")].map(said => said.textContent);
      say.push(texts.every(text => text.startsWith("</" + "script><script>")));
      press("g"); press("ArrowRight"); await wait();
      say.push($("turns").textContent.includes("Its text is not on this page"));
      location.hash = "#c999"; await wait(); say.push(name());
    """
    assert drive(chromium, render_scan(hostile_scan()), steps, tmp_path) == [0, False, True, True, "list"]


MEASURE = """<!doctype html><body><iframe srcdoc="%s" width="%d" height="900"></iframe><script>
onload = async () => {
  const d = document.querySelector("iframe").contentDocument, sizes = [d.documentElement.scrollWidth];
  d.querySelector("#rows a")?.closest("td, th").click();
  await new Promise(done => setTimeout(done, 100));
  sizes.push(d.documentElement.scrollWidth, d.getElementById("talk").hidden);
  document.title = sizes.join(" ");
}</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 700, 1200])
@pytest.mark.parametrize("make", [scan, hostile_scan])
def test_list_and_conversation_fit_their_window(make: Any, width: int, chromium: str, tmp_path: Path) -> None:
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_scan(make()))
    path = tmp_path / "page.html"
    path.write_text(MEASURE % (escape(html), width), encoding="utf-8")
    flags = [*BROWSER_FLAGS.split(), "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [chromium, *flags, path.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120, check=True
    )
    title = re.search(r"<title>(\d+) (\d+) (\w+)</title>", done.stdout)
    assert title, done.stdout[-300:]
    assert int(title.group(1)) <= width
    assert int(title.group(2)) <= width
