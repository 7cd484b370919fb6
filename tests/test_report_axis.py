"""The persona map's page: inert whatever the report says, the same way up at every layer, and alive in a browser."""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import RunError
from mien.report.axis_data import CostPoint, NotPlayed
from mien.report.axis_map import EXAMPLE, map_data, orientations
from mien.report.axis_page import render_axis, write_axis_page
from mien.report.axis_words import cost_sentence, duration
from mien.report.page import embed
from sample_axis import axis_report, holed_report, hostile_report
from test_report_card import ScriptedPage, browse


def embedded(html: str) -> dict[str, Any]:
    """The JSON that the page's script will read, found as a browser finds it."""
    scripts = ScriptedPage(html).scripts
    assert len(scripts) == 2
    return json.loads(scripts[0])  # type: ignore[no-any-return]


REPORTS = {
    "full": axis_report,
    "hostile": hostile_report,
    "holed": holed_report,
    "three": lambda: axis_report(3, 4),
    "one": lambda: axis_report(1, 1),
    "no traits": lambda: axis_report(12, 3, traits=(), not_played=(), cost=(), notes=(), settings={}, reasons=()),
    "no roles": lambda: axis_report(0, 3, traits=()),
    "no layers": lambda: axis_report(3, 0),
    "base": lambda: axis_report(12, 4, chat=False, verdict=None, reasons=()),
}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_page_is_well_formed_and_asks_for_nothing(make: Any) -> None:
    html = render_axis(make())
    page = ScriptedPage(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "style"), (tag, name)
            if (tag, name) == ("link", "href"):
                assert value == "data:,"
            elif name != "content":
                assert not re.search(r"evil|alert|javascript|//|\bnan\b|\binf\b", value or "", re.IGNORECASE)
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", page.text, re.IGNORECASE)
    assert not re.search(r"url\(|@import|http", re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1))  # type: ignore[union-attr]


def test_only_the_two_scripts_of_the_page_may_run() -> None:
    page = ScriptedPage(render_axis(hostile_report()))
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "axis-data"}, {}]
    assert "http-equiv" in str(page.elements)
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert re.match(r"default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+'; img-src data:;", policy)
    code = page.scripts[1]
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch(", "Function("):
        assert word not in code, word


def test_hostile_text_is_shown_word_for_word_and_adds_no_element() -> None:
    html = render_axis(hostile_report())
    page = ScriptedPage(html)
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]", html)
    data = embedded(html)
    assert data["roles"][0]["name"].startswith("</style></title></textarea><script>alert(1)</script>")
    assert "⟨U+202E⟩" in data["roles"][0]["example"]
    raw = re.search(r'id="axis-data">(.*?)</script>', html, re.DOTALL)
    assert raw
    assert not re.search("[<>&\u2028\u2029]", raw.group(1))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.text() | st.integers(-9, 9), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_embedded_json_holds_nothing_that_a_parser_could_take_for_markup(value: Any) -> None:
    text = str(embed(value))
    assert not re.search("[<>&\u2028\u2029]", text)
    text.encode("utf-8")
    json.loads(text)


def test_embedded_json_refuses_numbers_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed([math.nan])


COLUMN = st.lists(st.floats(-50, 50), min_size=4, max_size=4).filter(lambda c: max(c) - min(c) > 1)


@settings(max_examples=200, deadline=None)
@given(
    first=COLUMN,
    steps=st.lists(st.lists(st.floats(-0.1, 0.1), min_size=4, max_size=4), max_size=7),
    flips=st.lists(st.sampled_from((1, -1)), min_size=8, max_size=8),
    anchor=st.integers(0, 7),
)
def test_layers_that_a_sign_mirrored_are_turned_back(
    first: list[float], steps: list[list[float]], flips: list[int], anchor: int
) -> None:
    """Slowly moving columns, each mirrored or not: up to the anchor's own sign, the mirroring is undone."""
    smooth = [first]
    for step in steps:
        smooth.append([value + move for value, move in zip(smooth[-1], step, strict=True)])
    anchor = min(anchor, len(smooth) - 1)
    flips = flips[: len(smooth)]
    mirrored = [[sign * value for value in column] for sign, column in zip(flips, smooth, strict=True)]
    signs = orientations(mirrored, anchor)
    assert signs[anchor] == 1
    assert [sign * flip for sign, flip in zip(signs, flips, strict=True)] == [flips[anchor]] * len(smooth)


HOLED = st.lists(st.none() | st.floats(allow_nan=True), min_size=5, max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(HOLED, max_size=6))
def test_alignment_survives_any_column_and_is_done_after_once(columns: list[list[float | None]]) -> None:
    signs = orientations(columns)
    assert len(signs) == len(columns)
    assert set(signs) <= {1, -1}
    turned = [[None if v is None else s * v for v in column] for s, column in zip(signs, columns, strict=True)]
    assert orientations(turned) == [1] * len(columns)


def test_the_map_does_not_mirror_and_the_assistant_lies_to_the_right() -> None:
    report = axis_report(40, 30)
    data: Any = map_data(report)
    for component in ("x", "y"):
        columns = [[role[component][k] for role in data["roles"]] for k in range(30)]
        assert orientations(columns, data["start"]) == [1] * 30
        raw = [[getattr(role, component)[k] for role in report.roles] for k in range(30)]
        assert orientations(raw) != [1] * 30, "the sample has nothing to align"
        for k in (0, 2, 16, 29):
            assert [abs(v) for v in columns[k]] == pytest.approx([abs(v) for v in raw[k]], rel=1e-3)
    k = data["start"]
    assert data["x"][k] > sum(role["x"][k] for role in data["roles"]) / 40
    # Traits and the default turn with the roles.
    flips = [math.copysign(1, a * b) for a, b in zip(data["roles"][0]["x"], report.roles[0].x, strict=True)]
    assert data["traits"][0]["x"] == pytest.approx(
        [f * v for f, v in zip(flips, report.traits[0].x, strict=True)], rel=1e-3
    )
    assert data["x"] == pytest.approx([f * e.default_x for f, e in zip(flips, report.layers, strict=True)], rel=1e-3)


def test_numbers_that_are_none_become_null() -> None:
    data: Any = map_data(holed_report())
    hole, cut = data["roles"][0], data["roles"][1]
    assert hole["x"] == hole["y"] == hole["p"] == [None] * 5
    assert cut["p"] == [None] * 5
    assert cut["x"][2:] == [None] * 3
    assert None not in cut["x"][:2]
    assert data["traits"][1]["c"] == [None] * 5
    assert (data["start"], data["x"][1], data["layers"][2]["cosine"]) == (4, None, None)


def test_275_roles_over_30_layers_stay_small() -> None:
    report = axis_report(275, 30)
    html = render_axis(report)
    assert len(html.encode()) < 1_000_000
    data = embedded(html)
    assert (len(data["roles"]), len(data["layers"]), len(data["roles"][274]["x"])) == (275, 30, 30)
    assert len(report.roles[0].example) > EXAMPLE
    assert all(len(role["example"]) <= EXAMPLE for role in data["roles"])


def test_the_page_says_what_the_axis_is_worth() -> None:
    text = ScriptedPage(render_axis(axis_report())).text.replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "Persona map · HuggingFaceTB/SmolLM2-135M-Instruct Assistant Axis usable",
        "Usable, with care:",
        "At layer 16: 96 roles played, on average 4.2 sigma away from the default Assistant. Nearest to it are",
        "At layer 16, axes from two halves of the roles agree with cosine 0.97, from two halves of the questions with",
        "20 roles reach cosine 0.90 [0.86, 0.94], in about 36 s.",
        "40 1 min 0.94 [0.92, 0.96]",
        "11 of 107 roles (10%) are left out",
        "arsonist refused",
        "max new tokens 96",
    ):
        assert said in text, said
    assert "base model" not in text
    remarked = axis_report(12, 4, not_played=(NotPlayed("stoic", "refused"), NotPlayed("teacher", "partly, and used")))
    said = ScriptedPage(render_axis(remarked)).text
    assert "1 of 13 roles (8%) is left out" in said
    assert "On the map with a remark (1) teacher partly, and used" in said
    timeless = ScriptedPage(render_axis(axis_report(12, 4, cost=(CostPoint(5, 0.8, 0.7, 0.9, None),)))).text
    assert "roles cosine 5% to 95% 5 0.80" in timeless
    base = ScriptedPage(render_axis(REPORTS["base"]())).text
    assert "This is a base model: nobody trained it to be an Assistant." in base
    assert "has not been judged" in base
    bare = ScriptedPage(render_axis(REPORTS["no traits"]())).text
    assert "Not measured: cost by number of roles and traits on the axis." in bare
    for heading in ("Traits on the axis", "Roles not played", "How it was made", "Cosine by number"):
        assert heading not in bare.replace("Not measured: cost by number of roles and traits on the axis.", "")
    told = "Weak: do not rely on this axis. It is noise."
    weak = ScriptedPage(render_axis(axis_report(12, 4, verdict="weak", reasons=(told,)))).text
    assert (weak.count(told), weak.lower().count("do not rely")) == (1, 1)
    assert "No role was played, so there is no map." in ScriptedPage(render_axis(REPORTS["no roles"]())).text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (59.7, "1 min"), (3569, "59 min"), (3590, "1 h"), (7500, "2 h 5 min"),
     (100_000, "1 d 4 h"), (None, ""), (math.nan, ""), (math.inf, ""), (-1, "")],
)  # fmt: skip
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_cost_in_a_line() -> None:
    assert cost_sentence(CostPoint(40, 0.931, math.nan, math.nan, 62)) == "40 roles: 1 min, cosine 0.93"
    assert cost_sentence(CostPoint(1, 0.5, 0.4, 0.6, None)) == "1 role: cosine 0.50 [0.40,\xa00.60]"


def test_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_axis_page(axis_report(3, 2), tmp_path)
    assert path == tmp_path / "axis.html"
    assert path.read_text(encoding="utf-8") == render_axis(axis_report(3, 2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["axis.html"]
    with pytest.raises(RunError, match=r"Cannot write axis\.html: there is no folder .* Create it first\."):
        write_axis_page(axis_report(3, 2), str(tmp_path / "absent"))


@pytest.mark.browser
@pytest.mark.parametrize(
    "make", [REPORTS[n] for n in ("full", "hostile", "holed", "three", "one", "no traits", "no roles")]
)
def test_browser_draws_every_role_without_a_complaint(make: Any, chromium: str, tmp_path: Path) -> None:
    report = make()
    document, console = browse(chromium, render_axis(report), tmp_path)
    assert console == []
    page = ScriptedPage(document)
    dots = [a for _, a in page.elements if re.match(r"role moving", a.get("class") or "")]
    rows = [a for _, a in page.elements if a.get("role") == "option"]
    assert len(dots) == len(rows) == len(report.roles)
    assert sum(tag == "script" for tag, _ in page.elements) == (2 if report.roles else 0)
    assert not re.search(r"\bNaN\b|Infinity|undefined|\bnull\b", page.text)
    if report is not None and make is REPORTS["full"]:
        assert all(re.fullmatch(r"transform: translate\(-?[\d.]+px, -?[\d.]+px\);", a["style"] or "") for a in dots)
        assert len({a["style"] for a in dots}) == len(report.roles)
        assert {a["class"] for a in dots} >= {"role moving k0", "role moving k5", "role moving k10"}


DRIVE = """<!doctype html><body><iframe srcdoc="%s" width="%d" height="900"></iframe><pre id="result"></pre><script>
onload = () => {
  const frame = document.querySelector("iframe"), d = frame.contentDocument, w = frame.contentWindow, out = {};
  const all = selector => [...d.querySelectorAll(selector)], id = name => d.getElementById(name);
  const places = () => all(".role.moving").map(node => node.style.transform).sort();
  const order = () => all("#ranking .row").map(row => row.id);
  const fire = (node, event) => node.dispatchEvent(event);
  const key = (node, name) =>
    fire(node, new w.KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const layer = value => { id("layer").value = value; fire(id("layer"), new w.Event("input")); };
  out.before = places(); out.order = order(); out.figure = id("fig-cosine").textContent;
  layer(2);
  out.after = places(); out.order_after = order(); out.figure_after = id("fig-cosine").textContent;
  out.says = [id("layer").getAttribute("aria-valuetext"), id("layer-name").textContent, id("layer-again").textContent];
  fire(id("back"), new w.MouseEvent("click"));
  out.back = places();
  key(id("plot"), "ArrowLeft");
  out.told = id("told").textContent; out.now = all(".role.now").length;
  key(id("plot"), "Escape");
  out.let_go = id("told").textContent;
  const dot = all(".role circle")[5].getBoundingClientRect();
  const at = { clientX: dot.x + dot.width / 2, clientY: dot.y + dot.height / 2, bubbles: true };
  fire(id("plot"), new w.PointerEvent("pointermove", { ...at, pointerType: "mouse" }));
  out.hovered = id("told").textContent;
  fire(id("plot"), new w.PointerEvent("pointerleave", {}));
  fire(id("plot"), new w.MouseEvent("click", at));
  out.tapped = id("told").textContent;
  key(id("ranking"), "End");
  out.last = id("told").textContent;
  out.active = id("ranking").getAttribute("aria-activedescendant");
  id("search").value = "LIBRA"; fire(id("search"), new w.Event("input"));
  out.found = [id("found").textContent, all(".role.match").length, all("#ranking .row:not([hidden])").length];
  id("search").value = ""; fire(id("search"), new w.Event("input"));
  out.labels = all(".role-tag.named text").map(node => { const b = node.getBBox(), m = node.getCTM();
    return [b.x + m.e, b.y + m.f, b.x + m.e + b.width, b.y + m.f + b.height]; });
  id("arrows").checked = !id("arrows").checked; fire(id("arrows"), new w.Event("change"));
  out.arrows_off = id("plot").classList.contains("no-arrows");
  out.scroll = d.documentElement.scrollWidth;
  document.getElementById("result").textContent = JSON.stringify(out);
}</script></body>"""


def drive(chromium: str, html: str, width: int, folder: Path) -> dict[str, Any]:
    """Use the page as a person would, and bring back what it showed."""
    document, console = browse(chromium, DRIVE % (escape(html), width), folder)
    assert console == []
    found = re.search(r'<pre id="result">(\{.*?)</pre>', document, re.DOTALL)
    assert found, document[-500:]
    return json.loads(found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))  # type: ignore[no-any-return]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 700, 1300])
def test_a_person_can_use_the_map(width: int, chromium: str, tmp_path: Path) -> None:
    out = drive(chromium, render_axis(axis_report(48, 12)), width, tmp_path)
    moved = sum(a != b for a, b in zip(out["before"], out["after"], strict=True))
    assert moved > 40, "the slider moves the dots"
    assert out["back"] == out["before"]
    assert sorted(out["order"]) == sorted(out["order_after"])
    assert out["order"] != out["order_after"]
    assert out["figure"] != out["figure_after"]
    assert out["says"] == ["layer 2", "2", "2"]
    assert "sigma on the axis" in out["told"]
    assert "Asked: What would you do" in out["told"]
    assert out["now"] == 1
    assert out["let_go"] == ""
    assert "sigma on the axis" in out["hovered"]
    assert out["tapped"] == out["hovered"]
    assert "48 of 48, nearest the Assistant first" in out["last"]
    assert out["active"] == out["order"][-1]
    assert out["found"] == ["1 role", 1, 1]
    assert out["scroll"] <= width
    assert out["arrows_off"] == (width >= 500), "on a phone the arrows start hidden"
    labels = out["labels"]
    assert len(labels) >= 6
    for i, a in enumerate(labels):
        for b in labels[:i]:
            over = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert min(over) <= 1.5, "two names overlap"


@pytest.mark.browser
def test_hostile_and_holed_reports_survive_being_used(chromium: str, tmp_path: Path) -> None:
    for name, make in (("hostile", hostile_report), ("holed", holed_report)):
        folder = tmp_path / name
        folder.mkdir()
        out = drive(chromium, render_axis(make()), 390, folder)
        assert out["back"] == out["before"]
        assert out["scroll"] <= 390


@pytest.mark.browser
def test_browser_refuses_a_foreign_script(chromium: str, tmp_path: Path) -> None:
    attack = "<script>document.title = 'taken'</script><b onclick='1'>x</b><style>h1 { color: red }</style>"
    document, console = browse(
        chromium, render_axis(axis_report(3, 2)).replace("</main>", f"{attack}</main>"), tmp_path
    )
    assert "<title>Assistant Axis" in document
    assert len(console) >= 2
    assert all("Content Security Policy" in line for line in console)
