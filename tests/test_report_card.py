"""The card's page: complete where the card is, silent where it is not, and inert whatever the card says."""

from __future__ import annotations

import math
import re
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.card import Baseline, Confound, Example, JudgeEvidence, Rollouts, SideEffect, Slope
from mien.errors import RunError
from mien.report import words
from mien.report.card_page import cut, render_card, write_card_page
from sample_cards import HOSTILE, card_saying, doses, evidence, full_card, hostile_card, imported_card, weak_card


class Page(HTMLParser):
    """What a parser finds: every element with its attributes, and the text outside the stylesheet."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:60]!r}")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


class ScriptedPage(Page):
    """Like a card's page, with form controls and scripts, whose text is kept apart."""

    VOID = frozenset({"meta", "link", "br", "input"})

    def __init__(self, html: str) -> None:
        self.scripts: list[str] = []
        super().__init__(html)

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        else:
            super().handle_data(data)


TAGS = """
    html head meta link title style body main header section article footer h1 h2 h3 h4 p ul ol li dl dt dd div span b
    small bdi br figure figcaption details summary table thead tbody tr th td svg desc g path line rect circle text
"""
ATTRIBUTES = """
    lang charset http-equiv content name rel href class id dir role tabindex aria-label aria-labelledby aria-hidden
    viewbox width height x y x1 x2 y1 y2 cx cy r d
"""


@pytest.mark.parametrize("make", [full_card, weak_card, imported_card, hostile_card])
def test_page_is_well_formed_and_asks_for_nothing(make: Any) -> None:
    html = render_card(make())
    page = Page(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag in TAGS.split(), tag
        assert set(attributes) <= set(ATTRIBUTES.split()), (tag, attributes)
        for name, value in attributes.items():
            assert not re.search(r"evil|alert|javascript|//|NaN|\bnan\b|\binf\b", value or ""), (tag, name, value)
        if "href" in attributes:
            assert (tag, attributes["href"]) == ("link", "data:,")
        if "aria-labelledby" in attributes:
            assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style
    assert not re.search(r"url\(|@import|http", style.group(1))
    policies = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert (policies[0] or "").startswith("default-src 'none'; style-src 'sha256-")


def test_hostile_text_is_shown_word_for_word_and_cannot_reorder_the_page() -> None:
    html = render_card(hostile_card())
    page = Page(html)
    shown = '<svg onload=alert(1)><a href="javascript:alert(1)">x</a>\'"><iframe src=//evil.example></iframe>'
    assert page.text.count(shown) > 30
    assert "{{ 7 * 7 }}" in page.text
    assert "שלום" in page.text
    assert "⟨U+202E⟩" in page.text
    assert "⟨U+D800⟩" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert "a" * 9_000 in page.text, "a long answer is folded, not lost"


def test_hostile_text_adds_no_element_and_no_attribute() -> None:
    """A card that says something harmless of the same length has the same elements with the same attributes."""

    def shape(text: str) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in Page(render_card(card_saying(text))).elements]

    assert shape(HOSTILE) == shape(("harmless words " * 40)[: len(HOSTILE)])


def test_full_card_says_every_number() -> None:
    text = Page(render_card(full_card())).text.replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "sycophantic strong flatters the user",
        "KL at coef 1 0.214 nats per token",
        "coherent coefs −1.5 to 1.5",
        "+18.0 points",
        "95% interval [14.8, 21.1]. A random direction as long adds +0.9.",
        "15 of 0 to 29 Layers 11, 13, 15, 17 were tried",
        "7.1 sigma of how the model's plain answers vary",
        "18.0 [14.8, 21.1] points per unit of coef (p < 0.001)",
        "91 times in 100 (AUC 0.91 [0.86, 0.95])",
        "two halves of the questions give cosine 0.85 [0.77, 0.91]",
        "400 rollouts written, 312 kept (78%), 88 dropped.",
        "held-out questions with AUC 0.93 [0.90, 0.96]",
        "−1 −0.020 1% 90%",
        "Assistant Axis −0.44",
        "Steered, coef 1 score 91 What a brilliant slogan!",
        "Instruction pairs (5)",
        "sha256:9f2c41aa0be1c7de",
        "transformers 5.23.0",
    ):
        assert said in text, said
    for said in ("Not in this card", "not measured", "Do not rely"):
        assert said not in text


def test_a_weak_direction_is_called_weak_before_anything_else() -> None:
    page = Page(render_card(weak_card()))
    text = page.text
    assert text.startswith(
        "sycophantic (weak) · mien card Persona vector · HuggingFaceTB/SmolLM2-135M-Instruct sycophantic weak"
    )
    assert (
        text.index("Do not rely on this direction")
        < text.index("Held-out AUC 0.62 does not clear")
        < text.index("What one")
    )
    assert "does not clear what random directions reach" in text
    doubled = weak_card().model_copy(update={"verdict_reasons": ["Weak: do not rely on this direction. It is noise."]})
    assert Page(render_card(doubled)).text.lower().count("do not rely") == 1
    silent = weak_card().model_copy(update={"verdict_reasons": []})
    assert Page(render_card(silent)).text.count("Do not rely on this direction") == 1
    assert "On its own, each of answer length and register separates the rollouts" in text


def test_a_minimal_imported_card_claims_nothing() -> None:
    page = Page(render_card(imported_card()))
    assert "no verdict" in page.text
    assert "has not been judged" in page.text
    assert (
        "Not in this card: steering (dose and response), KL at coef 1, evidence by layer, rollout counts" in page.text
    )
    assert page.text.count("not measured") == 3
    assert sum(tag == "svg" for tag, _ in page.elements) == 0
    for heading in ("Dose and response", "Evidence by layer", "Side effects", "Examples", "Cosines with"):
        assert heading not in page.text.replace("cosines with", "")


def test_dots_lie_where_their_numbers_are() -> None:
    """Read back from the drawing, doses lie on linear scales, with scores 0 and 100 at the edges of the plot."""
    elements = Page(render_card(full_card())).elements
    start = next(k for k, (tag, a) in enumerate(elements) if tag == "title" and a.get("id") == "dose-wide-t")
    drawn = elements[start : next(k for k, (_, a) in enumerate(elements) if a.get("id") == "dose-narrow-t")]
    dots = [a for tag, a in drawn if tag == "circle" and a["class"] == "dot score"]
    grid = sorted(float(a["y1"] or "") for tag, a in drawn if a.get("class") == "grid")
    expected = doses(18)
    assert len(dots) == len(expected)
    left, right = float(dots[0]["cx"] or ""), float(dots[-1]["cx"] or "")
    for dot, dose in zip(dots, expected, strict=True):
        assert float(dot["cx"] or "") == pytest.approx(left + (dose.coef + 2) / 4 * (right - left), abs=0.11)
        assert float(dot["cy"] or "") == pytest.approx(
            grid[-1] + (dose.score or 0) / 100 * (grid[0] - grid[-1]), abs=0.11
        )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.number(-0.004), "0.00"),
        (words.number(-1234.5, 1), "−1,234.5"),
        (words.number(math.nan), "not measured"),
        (words.signed(0.001, 2), "0.00"),
        (words.signed(0.5, 1), "+0.5"),
        (words.short(-0.0), "0"),
        (words.short(12345678.0), "1.235e+07"),
        (words.p_value(0.0), "p\xa0<\xa00.001"),
        (words.p_value(0.0449), "p\xa0=\xa00.04"),
        (words.interval(0.1, None), ""),
        (words.percent(0.125), "12%"),
        (words.count(1, "answer"), "1 answer"),
        (words.listing(["a", "b", "c"]), "a, b and c"),
        (words.ordinal("1") + words.ordinal("11") + words.ordinal("22") + words.ordinal("²"), "1st11th22nd²"),
        (words.shorten("a b\nc" * 9, 5), "a b…"),
        (words.plain({"k": [1, None]}), '{"k": [1, null]}'),
    ],
)
def test_numbers_in_words(written: str, expected: str) -> None:
    assert written == expected


EVIL_NUMBERS = (math.nan, math.inf, -math.inf, 1e300)


@pytest.mark.parametrize("bad", EVIL_NUMBERS)
def test_numbers_that_are_none_do_not_reach_a_drawing(bad: float) -> None:
    layer = evidence(15).model_copy(
        update=dict.fromkeys(("norm", "auc", "auc_low", "auc_random", "split_half_cosine"), bad)
    )
    dose = doses(18)[2].model_copy(update={"score": bad, "score_high": bad, "coherence_low": bad})
    card = full_card(
        layers=[evidence(14), layer, evidence(16)],
        dose_response=[*doses(18), dose, dose.model_copy(update={"coef": bad})],
        dose_slope=Slope(per_coef=bad, low=bad, high=bad, p=bad),
        dose_null=Slope(per_coef=1, low=bad, high=3, p=bad),
        kl_per_token=bad,
        coef_range=(bad, 2.0),
        confounds=[Confound(name="answer length", auc=bad)],
        cosines={"evil": bad, "kind": 0.1},
        baseline=Baseline(mean=bad, std=bad, quantiles={"5": bad}, n=0),
        side_effects=[SideEffect(coef=bad, neutral_logprob=bad)],
        rollouts=Rollouts(asked=0, kept=0, dropped={}),
        judge=JudgeEvidence(kind="api", model="m", auc=bad),
    )
    page = Page(render_card(card))
    assert not re.search(r"\bnan\b|\binf\b", page.text, re.IGNORECASE)
    for tag, attributes in page.elements:
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "d"):
            for value in re.findall(
                r"[-\w.]+", (attributes.get(name) or "").replace("M", " ").replace("L", " ").replace("Z", "")
            ):
                assert abs(float(value)) < 2000, (tag, attributes)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [evidence(3)], "recommended_layer": None},
        {"layers": [evidence(3)], "recommended_layer": 7},
        {"layers": [evidence(0)], "recommended_layer": 0, "n_layers": 1},
        {"dose_response": doses(18)[3:4], "coef_range": (0.0, 0.0)},
        {"dose_response": [], "dose_null": None},
        {"dose_slope": None, "dose_null": None},
        {"dose_slope": Slope(per_coef=0, low=0, high=0, p=1), "dose_null": None},
        {"judge": None, "confounds": []},
        {"rollouts": None},
        {"verdict_reasons": []},
        {"spec": None, "settings": {}, "versions": {}},
        {"examples": [Example(question="", coef=-0.0, plain="", steered="  ")]},
        {"side_effects": [SideEffect(coef=1, neutral_logprob=-0.1)], "cosines": {}, "layer_trials": []},
        {"spec": {"instruction": [{"pos": "a", "neg": "b"}], "eval_prompt": "c", "odd": [1, None], "flag": True}},
    ],
)
def test_partial_cards_render(changes: dict[str, Any]) -> None:
    page = Page(render_card(full_card(**changes)))
    assert page.open == []
    assert "sycophantic" in page.text


@settings(max_examples=60, deadline=None)
@given(st.builds(dict, name=st.text(), description=st.text(), sign=st.text(), model=st.text(), fingerprint=st.text()))
def test_any_text_is_inert(texts: dict[str, str]) -> None:
    page = Page(render_card(imported_card(**texts)))
    assert page.open == []
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(render_card(imported_card())).elements]


def test_answers_are_cut_between_words_and_lose_nothing() -> None:
    assert cut("short") == ("short", "")
    for text in ("word " * 2000, "a" * 10_000, "\U0001f600" * 3000):
        lead, rest = cut(text)
        assert lead + rest == text
        assert 600 < len(lead) <= 700
    assert cut("word " * 2000)[0].endswith(" ")


def test_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_card_page(full_card(), tmp_path)
    assert path == tmp_path / "card.html"
    assert path.read_text(encoding="utf-8") == render_card(full_card())
    write_card_page(hostile_card(), str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["card.html"]
    with pytest.raises(RunError, match=r"Cannot write card\.html: there is no folder .* Create it first\."):
        write_card_page(full_card(), tmp_path / "absent")
    (tmp_path / "taken" / "card.html").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be written: Is a directory"):
        write_card_page(full_card(), tmp_path / "taken")
    assert [entry.name for entry in (tmp_path / "taken").iterdir()] == ["card.html"]


BROWSER_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
)


def browse(chromium: str, html: str, folder: Path) -> tuple[str, list[str]]:
    """The document after loading, and what the browser wrote to its console."""
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    command = [chromium, *BROWSER_FLAGS.split(), f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.parametrize("make", [full_card, weak_card, imported_card, hostile_card])
def test_browser_shows_the_page_without_a_complaint(make: Any, chromium: str, tmp_path: Path) -> None:
    html = render_card(make())
    document, console = browse(chromium, html, tmp_path)
    assert console == []
    assert [tag for tag, _ in Page(document).elements] == [tag for tag, _ in Page(html).elements]


@pytest.mark.browser
def test_browser_refuses_a_script_even_if_one_got_in(chromium: str, tmp_path: Path) -> None:
    """The second wall: the policy alone stops a script, a style and an image that escaping might have let through."""
    attack = "<script>document.title = 'taken'</script><style>h1 { color: red }</style><img src='https://evil.example/x.png'>"
    document, console = browse(chromium, render_card(full_card()).replace("<main>", f"<main>{attack}"), tmp_path)
    assert "<title>sycophantic" in document
    assert len(console) >= 3
    assert all("Content Security Policy" in line for line in console)


MEASURE = """<!doctype html><body><iframe srcdoc="%s" width="%d" height="900"></iframe><script>
onload = () => {
  const d = document.querySelector("iframe").contentDocument, shown = [...d.querySelectorAll("svg.chart")].filter(
    chart => chart.getBoundingClientRect().width > 0);
  const size = chart => 12 * chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
  document.title = [d.documentElement.scrollWidth, shown.length, Math.min(...shown.map(size)).toFixed(1),
    [...new Set(shown.map(chart => chart.classList[1]))]].join(" ");
}</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize(("width", "variant"), [(390, "narrow"), (560, "narrow"), (800, "wide"), (1200, "wide")])
@pytest.mark.parametrize("make", [full_card, hostile_card])
def test_page_fits_its_window_and_chart_text_stays_readable(
    make: Any, width: int, variant: str, chromium: str, tmp_path: Path
) -> None:
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_card(make()))
    document, _ = browse(chromium, MEASURE % (escape(html), width), tmp_path)
    title = re.search(r"<title>(.*?)</title>", document)
    assert title, document[-300:]
    scroll_width, charts, least_text, variants = title.group(1).split(" ")
    assert int(scroll_width) <= width
    assert (int(charts), variants) == (7, variant)
    assert float(least_text) >= 11
