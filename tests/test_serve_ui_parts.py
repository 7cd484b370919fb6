"""The page's parts without a browser: what they draw, what a session remembers, how drafts grow, what is reachable."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import serving
import tiny
from mien.live import LiveEnd, LiveToken
from mien.records import Message, Sampling
from mien.scanning.measure import Panel, panel, tinted
from mien.serve.events import Hub
from mien.serve.history import History
from mien.serve.orders import Began, Ended, Event, Order, Told, Written
from mien.serve.policy import Rule
from mien.serve.problems import Problem
from mien.serve.records import Alarm, GaugeReading, Turn
from mien.serve.security import Keys, parse_keys
from mien.serve.ui import faces, fence, view_chat, view_drift, view_gauges, view_history
from mien.serve.ui.board import Board
from mien.serve.ui.session import Answer, Exchange, Session, asked_hold, firing, may_decide, modes
from mien.serve.ui.talk import Draft, follow, orders

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>${alert(3)}{{4}}\u202e\ud800</p>"
LOUD = faces.Face("loud", "writes in capitals", "high", 3.0)
KIND = faces.Face("kind", "is kind", "low", 9.0)
BARE = faces.Face("bare", "has no baseline", "high", None)


def reading(gauge: str = "loud", sigma: float | None = 1.0, **more: Any) -> GaugeReading:
    return GaugeReading(gauge, sigma, sigma, **{"statistic": 0.5, "alarm": None, **more})


def answer(text: str = "yes", lane: Any = "plain", **more: Any) -> Answer:
    return Answer(lane, text, **{"finish": "stop", "readings": (reading(),), **more})


class Parts(HTMLParser):
    """Tags and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def inert(html: str) -> None:
    """No tag or handler that is not ours, and nothing that reorders text."""
    found = Parts(html)
    assert found.tags <= {
        "article", "h2", "h3", "p", "span", "mark", "div", "ol", "ul", "li", "button", "time", "b", "svg", "title",
        "desc", "rect", "line", "text", "circle", "path",
    }  # fmt: skip
    assert not any(name.startswith("on") or name in ("href", "src", "style") for name in found.attributes)
    assert "\u202e" not in html
    html.encode()


# ---- the conversation ----


def test_text_is_text_wherever_it_stands() -> None:
    exchange = Exchange(HOSTILE, (answer(HOSTILE, words=(HOSTILE,), tints={"loud": (9.0,)}),), (HOSTILE,))
    inert(view_chat.past([exchange], ("plain",), LOUD, 1.0))
    draft = Draft("plain", pieces=[HOSTILE], words=[HOSTILE])
    inert(view_chat.now(HOSTILE, [draft], {"plain": [9.0]}, 1.0))
    inert(view_chat.notice(HOSTILE) + view_chat.welcome(HOSTILE) + view_chat.legend(HOSTILE, 2.0))
    face = faces.Face(HOSTILE, HOSTILE, "high", 1.0)
    needle = view_gauges.Needle("plain", {HOSTILE: 2.0}, {HOSTILE: "turn"})
    inert(view_gauges.gauges([face], [needle], HOSTILE) + view_gauges.hold(True, HOSTILE, (None, None, 0)))
    inert(view_drift.drift(HOSTILE, [view_drift.Line("plain", ((1, 2.0),))]))
    turn = Turn(HOSTILE, 1, "r", HOSTILE, 0.0, (reading(HOSTILE, alarm="turn"),), "stop", 1, 1,
                messages=(Message("user", HOSTILE), Message("assistant", HOSTILE)))  # fmt: skip
    inert(view_history.conversation(HOSTILE, [turn], None))
    inert(view_history.alarms([alarm(1, conversation=HOSTILE, gauge=HOSTILE)], {}, 0.0))


def test_tints_lie_under_their_words_and_no_character_is_lost() -> None:
    text = "Ho 🦉 yes & no"
    html = view_chat.tinted(text, ["Ho", " 🦉", " yes", " &", " no"], [0.2, 2.5, -7.0, None, 1.0], 1.0)
    assert '<mark class="h2t"> 🦉</mark><mark class="c3t"> yes</mark>' in html
    assert '<mark class="h1t"> no</mark>' in html
    assert re.sub(r"<[^>]+>", "", html) == "Ho 🦉 yes &amp; no"
    assert re.sub(r"<[^>]+>", "", view_chat.tinted("plain", [], [], 1.0)) == "plain"


def test_steps_of_tints_follow_the_tokens() -> None:
    wide = answer(tints={"loud": tuple(float(i) for i in range(100))})
    assert view_chat.tint_step([wide], "loud") == 50.0
    assert view_chat.tint_step([wide], "other") == view_chat.FIRST_STEP
    assert view_chat.tint_step([answer(tints={"loud": (None, float("nan"), 0.1)})], "loud") == 0.5


def test_lanes_that_have_not_parted_show_one_answer() -> None:
    shared, parted = answer("same"), (answer("one"), answer("two", "held", held=True, fired=0.25))
    html = view_chat.past([Exchange("a", (shared,)), Exchange("b", parted)], ("plain", "held"), LOUD, 1.0)
    assert html.count("same") == 1
    assert 'answers n1"' in html
    assert 'answers n2"' in html
    assert "cap fired 25%" in html
    one = view_chat.past([Exchange("b", parted)], ("held",), LOUD, 1.0)
    assert "two" in one
    assert "one" not in one


def test_an_answer_says_what_is_off() -> None:
    off = answer(readings=(reading(sigma=4.0, alarm="turn"), reading("kind", alarm="drift", since=1)), finish="stopped")
    html = view_chat.past([Exchange("a", (off,), ("loud +2",))], ("plain",), LOUD, 1.0)
    for words in ("drifted: kind", "off: loud", "loud +4.0 σ", "pushed: loud +2", "stopped"):
        assert words in html


# ---- gauges and charts ----


def test_gauges_show_value_side_and_alarm() -> None:
    needles = [view_gauges.Needle("plain", {"loud": 4.25, "kind": -1.0}, {"loud": "drift"}),
               view_gauges.Needle("held", {"loud": 0.5, "kind": None})]  # fmt: skip
    html = view_gauges.gauges([LOUD, KIND, BARE], needles, "kind")
    assert 'class="value plain over">+4.2<' in html
    assert 'class="value held">+0.5<' in html
    assert "drifted high" in html
    assert html.count('aria-pressed="true"') == 1
    assert html.count('class="alarm"') == 2, "a gauge without baseline has no alarm"
    assert "loud: plain: +4.2 sigma, held: +0.5 sigma. drifted high. A single answer alarms above +3.0 σ." in html
    assert "kind: plain: −1.0 sigma. A single answer alarms below −9.0 σ." in html
    assert "there are no gauges" in view_gauges.gauges([], [], None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9, -1e9])
def test_needles_stay_on_the_track(value: float) -> None:
    html = view_gauges.gauges([LOUD], [view_gauges.Needle("plain", {"loud": value})], None)
    places = [float(x) for x in re.findall(r'class="needle plain" x1="([^"]+)"', html)]
    assert all(0 <= x <= view_gauges.WIDTH for x in places)
    assert "nan" not in html.lower().replace("alarm", "")


def test_the_hold_says_what_it_did() -> None:
    answers = [answer(), answer(held=True, fired=0.2), answer(held=True, fired=0.4)]
    assert firing(answers) == (0.4, pytest.approx(0.3), 2)
    html = view_gauges.hold(True, "loud", firing(answers))
    assert "40%" in html
    assert "30% over 2 held answers" in html
    assert "never had to act" in view_gauges.hold(True, "loud", (0.0, 0.0, 1))
    assert "nearly everywhere" in view_gauges.hold(True, "loud", (0.97, 0.97, 1))
    assert "without --hold" in view_gauges.hold(False, "", (None, None, 0))
    assert "no answer has been held" in view_gauges.hold(True, "loud", firing(answers[:1]))


def test_drift_is_drawn_against_its_alarm() -> None:
    def heights(html: str) -> list[float]:
        return [float(y) for y in re.findall(r'cy="([^"]+)"', html)]

    html = view_drift.drift("loud", [view_drift.Line("auto", ((1, 0.2), (2, 0.9), (3, 1.4)))])
    limit = float(re.search(r'class="limit" [^>]*y1="([^"]+)"', html)[1])  # type: ignore[index]
    below, near, above = heights(html)
    assert below > near > limit > above
    assert "auto: 1.40 at answer 3, past the alarm at 1" in html
    assert "Nothing has been read" in view_drift.drift("loud", [view_drift.Line("auto", ())])
    for odd in (float("nan"), 1e300, 0.0):
        assert "nan" not in view_drift.drift("loud", [view_drift.Line("auto", ((1, odd),))])
    two = view_drift.drift("loud", [view_drift.Line("plain", ((1, 0.1),)), view_drift.Line("held", ((1, 0.0),))])
    assert re.findall(r'class="key"[^>]*>(\w+)<', two) == ["plain", "held"]


# ---- alarms and history ----


def alarm(id: int, **more: Any) -> Alarm:
    given = {"conversation": "c", "index": 1, "request": f"r{id}", "model": "m", "at": 100.0, "gauge": "loud",
             "kind": "turn", "sigma": 5.0, "statistic": 0.7, "since": None}  # fmt: skip
    return Alarm(id=id, **{**given, **more})


def test_alarms_lead_to_their_conversations() -> None:
    html = view_history.alarms(
        [alarm(2, kind="drift", statistic=1.5, since=3), alarm(1)], {"c": "this conversation"}, 100.0 + 7300
    )
    assert html.count('data-conversation="c"') == 2
    assert "loud drifted" in html
    assert "this conversation, message 2, since 4" in html
    assert "2 h ago" in html
    assert html.index("1.50") < html.index("+5.0 σ")
    assert "None yet" in view_history.alarms([], {}, 0.0)
    assert view_history.alarms([alarm(i) for i in range(99)], {}, 0.0).count("<li>") == view_history.SHOWN


def test_a_conversation_shows_its_turns_once() -> None:
    said = [Message("system", "Be."), Message("user", "one?"), Message("assistant", "1"), Message("user", "two?"),
            Message("assistant", "2")]  # fmt: skip
    turns = [
        Turn("c", i, f"r{i}", "m", 0.0, (reading(statistic=0.4), reading("kind", statistic=s, alarm=a, since=since)),
             "stop", 1, 1, messages=tuple(said[: i + 1]))
        for i, s, a, since in ((2, 0.1, None, None), (4, 1.2, "drift", 4))
    ]  # fmt: skip
    html = view_history.conversation("c", turns, None)
    assert re.findall(r'class="text">([^<]*)<', html) == ["Be.", "one?", "1", "two?", "2"]
    assert "Drift on <b>kind</b>" in html, "the gauge nearest its alarm"
    assert "drifted since message 5" in html
    assert "Drift on <b>loud</b>" in view_history.conversation("c", turns, "loud")
    bare = [replace(t, messages=None) for t in turns]
    assert "keeps readings and no texts" in view_history.conversation("c", bare, None)
    session = Session("c", [Exchange("one?", (answer("uno"),), headed=True), Exchange("two?", (answer("dos"),))])
    assert view_history.texts_of(session, "plain") == {1: "one?", 2: "uno"} | {2: "two?", 3: "dos"}
    assert ">uno<" in view_history.conversation("c", bare[:1], None, {1: "one?", 2: "uno"})
    assert "knows nothing" in view_history.conversation("c", [], None)


# ---- sessions and orders ----


def test_each_lane_goes_on_with_what_it_shows() -> None:
    session = Session()
    session.begin()
    first = session.id
    session.exchanges = [Exchange("a", (answer("1"),)), Exchange("b", (answer("p"), answer("h", "held")))]
    said = [m.content for m in session.transcript("held", " ", "c")]
    assert said == ["a", "1", "b", "h", "c"]
    assert [m.content for m in session.transcript("plain", "Be.", "c")] == ["Be.", "a", "1", "b", "p", "c"]
    assert (session.conversation("plain"), session.conversation("held")) == (first, f"{first}-held")
    session.begin()
    assert session.id != first
    assert session.exchanges == []
    assert session.conversation("held") == session.id, "one conversation until the lanes part"
    assert session.conversation("held", parting=True) == f"{session.id}-held"


@pytest.mark.parametrize(
    ("policy", "can_hold", "first", "asked"),
    [
        ("watch", False, "plain", {"plain": None}),
        ("alert", True, "plain", {"plain": None, "held": True}),
        ("refuse", True, "plain", {"plain": None, "held": True}),
        ("hold", True, "held", {"plain": False, "held": None}),
        ("hold-on-alarm", True, "auto", {"auto": None, "plain": False, "held": True}),
    ],
)
def test_the_servers_own_way_comes_first(policy: Any, can_hold: bool, first: str, asked: dict[Any, Any]) -> None:
    rule = Rule(policy, can_hold, True)
    assert modes(rule)[0][1] == first
    assert {lane: asked_hold(lane, rule) for lane in asked} == asked


@pytest.mark.parametrize(
    ("policy", "left"),
    [("hold", ["held"]), ("hold-on-alarm", ["auto", "held"]), ("alert", ["plain", "held", "both"])],
)
def test_who_may_not_decide_is_offered_nothing_that_switches_the_hold_off(policy: Any, left: list[str]) -> None:
    rule = Rule(policy, True, False)
    assert [mode for _, mode in modes(rule, False)] == left
    assert {mode for _, mode in modes(rule)} == {*left, "plain", "both"}


def test_on_the_page_only_marked_keys_decide_what_requests_may_not() -> None:
    plain, marked = (Keys(parse_keys(f"alice a-key-of-alice-000 {word}", "here")) for word in ("", "operator"))
    closed, open_ = Rule("hold", True, False), Rule("hold", True, True)
    assert [may_decide(closed, keys) for keys in (plain, marked, Keys())] == [False, True, True]
    assert may_decide(open_, plain)
    for hold, acts in ((False, False), (None, True)):
        with pytest.raises(Problem, match="does not let requests decide"):
            closed.decide(hold, acts, frozenset(), inside=may_decide(closed, plain))


@pytest.mark.parametrize("marked", [False, True])
def test_a_page_decides_only_for_who_may(marked: bool) -> None:
    """Whatever a browser sends: what it is not offered is asked for without that right, so it is refused."""
    pytest.importorskip("gradio", reason="the page is made with Gradio")
    from mien.serve.catalog import Catalog
    from mien.serve.server import Settings
    from mien.serve.ui import layout
    from mien.serve.ui.wiring import Wiring

    keys = Keys(parse_keys(f"alice a-key-of-alice-000 {'operator' if marked else ''}", "here"))
    rule, asked = Rule("hold", True, False), []

    async def run(order: Order) -> AsyncIterator[Event]:
        asked.append(order)
        yield ended("yes")

    server: Any = SimpleNamespace(
        rule=rule, settings=Settings(keys=keys, hold="/a/folder"), hold_name="calm", name="tiny",
        catalog=Catalog(None, (), {}), conductor=SimpleNamespace(run=run),
    )  # fmt: skip
    _, parts = layout.lay_out(layout.Settings("tiny", modes(rule, marked), ["shout"] if marked else None, 9))
    assert [mode for _, mode in parts.mode.choices] == (["held", "plain", "both"] if marked else ["held"])
    assert len(parts.sliders) == marked

    async def say(page: Wiring) -> None:
        assert "holds every answer to calm" in page._head()
        async with aclosing(page.send(Session("page-1"), "hi", "plain", "", 0.7, 5)) as updates:
            assert [update async for update in updates]

    with History("sqlite://") as history:
        asyncio.run(say(Wiring(server, parts, Board(Hub(history), history))))
    (order,) = asked
    assert (order.wanted.hold, order.inside) == (False, marked)


@pytest.mark.parametrize(("count", "told"), [(24, None), (30, "24 of 30 directions have a slider")])
def test_directions_without_a_slider_are_told_of(count: int, told: str | None) -> None:
    pytest.importorskip("gradio", reason="the page is made with Gradio")
    from mien.serve.ui import layout

    names = [f"d{i:02}" for i in range(count)]
    blocks, parts = layout.lay_out(layout.Settings("tiny", [("Plain", "plain")], names, 9))
    assert [slider.label for slider in parts.sliders] == names[: layout.MOST_SLIDERS]
    more = [b.value for b in blocks.blocks.values() if getattr(b, "elem_id", None) == "steer-more"]
    assert [told in html for html in more] == ([True] if told else [])


def test_both_lanes_are_asked_with_one_seed() -> None:
    session = Session("page-1", [])
    found = orders(session, ("plain", "held"), "hi", "", Sampling(5), (), (0,), Rule("alert", True, True), True)
    plain, held = found["plain"], found["held"]
    assert plain.seed == held.seed
    assert plain.messages == held.messages == (Message("user", "hi"),)
    assert (plain.wanted.hold, held.wanted.hold) == (None, True)
    assert (plain.conversation, held.conversation) == ("page-1", "page-1-held")
    assert plain.id != held.id
    assert plain.inside


def ended(text: str) -> Ended:
    told = Told("c", (reading(),), True, 0.5, "alert", "held stream", 1, (), [{"text": text, "tint": {"loud": 1.5}}])
    return Ended(0, LiveEnd("stop", (1,), text, fired=0.5), text, "", "stop", told)


class Scripted:
    """A conductor that says what it is told to, and remembers whether it was left."""

    def __init__(self, *events: Event | Exception, endless: bool = False) -> None:
        self.events, self.endless, self.left = events, endless, 0

    async def run(self, order: Order) -> AsyncIterator[Event]:
        del order
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
            while self.endless:
                await asyncio.sleep(0.001)
                yield Written(0, LiveToken(1, "x", 0.0))
        finally:
            self.left += 1


ORDER = Order("r", Sampling(5), (Message("user", "hi"),))


def seen(scripted: Scripted, lanes: tuple[Any, ...] = ("plain",), most: int = 10**6) -> list[Draft]:
    async def collect() -> list[Draft]:
        looks: list[list[Draft]] = []
        wanted = dict.fromkeys(lanes, ORDER)
        async with aclosing(follow(scripted.run, wanted, lambda: len(looks) >= most, 0.01)) as drafts:
            async for look in drafts:
                looks.append(look)
        return looks[-1]

    return asyncio.run(collect())


def test_a_draft_grows_into_the_answer() -> None:
    token = Written(0, LiveToken(1, "ye", 0.0), [{"text": "ye", "projection": {"loud": 2.0}}], {"loud": 0.5})
    (draft,) = seen(Scripted(Began(3, False), token, ended("yes")))
    found = draft.answer()
    assert (found.text, found.held, found.fired, found.tints) == ("yes", True, 0.5, {"loud": (1.5,)})
    assert draft.sigma == {"loud": 0.5}
    assert found.reading("loud") == reading()
    assert found.reading("other") is None


def test_stopping_gives_up_every_lane_and_keeps_what_was_written() -> None:
    scripted = Scripted(endless=True)
    drafts = seen(scripted, ("plain", "held"), most=3)
    assert scripted.left == 2
    assert [d.answer().finish for d in drafts] == ["stopped"] * 2
    assert set(drafts[0].text) == {"x"}


def test_a_listener_that_goes_leaves_nothing_running() -> None:
    scripted = Scripted(endless=True)

    async def go() -> None:
        drafts = follow(scripted.run, {"plain": ORDER}, lambda: False, 0.01)
        await anext(drafts)
        await drafts.aclose()

    asyncio.run(go())
    assert scripted.left == 1


@pytest.mark.parametrize("error", [Problem(429, "Busy."), RuntimeError("/secret/path")])
def test_what_goes_wrong_ends_the_draft_in_a_sentence(error: Exception) -> None:
    (draft,) = seen(Scripted(Began(1, False), error))
    assert draft.problem is not None
    assert "secret" not in draft.problem.message
    assert draft.problem.message == ("Busy." if isinstance(error, Problem) else
                                     "The server could not do this; its log says why.")  # fmt: skip


# ---- what is known of gauges and directions ----


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    model = tiny.tiny_model(tiny.taught_net())
    return panel(serving.gauges_of(model, tmp_path_factory.mktemp("gauges")), model)


def test_tints_while_writing_are_those_of_a_scan(taught: Panel) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((9, sum(len(p) for p in taught.probes.values()))).astype(np.float32)
    columns = [c for c, of in taught.terms[0] if of == "answer"]
    raws = [float(v) for v in tokens[:, columns].sum(1)]
    from mien.gauges import texture

    wanted = tinted(taught, 0, tokens, float(np.mean(raws)), texture("red sun", 2))
    np.testing.assert_allclose(faces.live_tints(taught, "loud", raws, "red sun", 2), wanted, rtol=1e-5, atol=1e-5)
    assert faces.live_tints(taught, "odd", raws, "red sun", 2) == [None] * 9, "it compares with the question"
    assert faces.live_tints(taught, "none", [None], "", 1) == [None]
    assert faces.live_tints(taught, "loud", [], "", 1) == []


def test_one_on_a_slider_is_the_whole_difference() -> None:
    model = tiny.tiny_model(tiny.taught_net())
    serving.keep_direction(model)
    from mien.serve.catalog import catalog_of

    catalog = catalog_of(model)
    assert faces.steerable(catalog) == ["shout"]
    (push,) = faces.pushes(catalog, {"shout": -1.5})
    assert push.coef == -1.5  # type: ignore[attr-defined]
    assert faces.pushes(catalog, {"shout": 0.0}) == ()
    assert faces.pushed_words({"shout": 1.5, "calm": 0.0, "evil": -0.25}) == ("shout +1.5", "evil −0.25")


def test_the_page_may_leave_out_the_hold_where_requests_may_not() -> None:
    rule = Rule("hold", True, clients_steer=False)
    with pytest.raises(Problem, match="does not let requests decide"):
        rule.decide(False, False, frozenset())
    assert rule.decide(False, True, frozenset(), inside=True) is False
    assert rule.decide(None, False, frozenset(), inside=True) is True


def test_one_along_a_gauge_is_two_sigma(tmp_path: Path) -> None:
    """For the page and the API alike: a gauge that came alone is a unit vector, and one raw unit moves nothing."""
    from mien.gauges import save_gauges
    from mien.serve.catalog import catalog_of

    model = tiny.tiny_model(tiny.taught_net())
    gauges = serving.gauges_of(model, tmp_path)
    catalog = catalog_of(model, files=(save_gauges(gauges, tmp_path / "g.safetensors"),))
    (loud,) = (g for g in gauges.gauges if g.name == "loud")
    assert loud.baseline is not None
    direction = catalog.direction("loud")
    assert float(direction.vector[direction.layer].norm()) == pytest.approx(2 * loud.baseline.std, rel=1e-4)
    assert float(direction.unit().norm()) == pytest.approx(1, rel=1e-5)


def test_a_gauge_that_brings_its_direction_is_pushed_along_that(tmp_path: Path) -> None:
    """Gauges that read at several layers, too: they could not be pushed along otherwise."""
    from mien.gauges import Part, save_gauges
    from mien.serve.catalog import catalog_of

    model = tiny.tiny_model(tiny.taught_net())
    gauges = serving.gauges_of(model, tmp_path)
    loud, odd = gauges.gauges
    vector = np.linspace(-1, 1, model.info.d_model, dtype=np.float32)
    given = replace(gauges, gauges=(loud, replace(odd, push=Part(2, vector))))
    catalog = catalog_of(model, files=(save_gauges(given, tmp_path / "g.safetensors"),))
    assert faces.steerable(catalog) == ["loud", "odd"]
    direction = catalog.direction("odd")
    assert direction.layer == 2
    np.testing.assert_allclose(direction.vector[2].numpy(), vector)
    beyond = replace(gauges, gauges=(replace(odd, push=Part(99, vector)),))
    assert faces.steerable(catalog_of(model, files=(save_gauges(beyond, tmp_path / "b.safetensors"),))) == []


def test_traits_that_come_with_mien_can_be_pushed_along() -> None:
    from mien.gauges import bundled_gauges

    found = bundled_gauges("smollm2-135m")
    assert found is not None
    assert [g.name for g in found.gauges if g.push is None] == ["escalating", "delusion_feeding"]  # never extracted
    for gauge in found.gauges:
        assert gauge.push is None or float(np.linalg.norm(gauge.push.vector)) > 5


# ---- alarms for every visitor, and the fence ----


def test_the_board_has_the_past_and_follows(tmp_path: Path) -> None:
    with History(f"sqlite:///{tmp_path / 'h.db'}") as history:

        def record(i: int) -> list[Alarm]:
            turn = Turn("c", 1, f"r{i}", "m", float(i), (reading(alarm="turn"),), "stop", 1, 1)
            return history.record(turn)

        record(1)
        hub = Hub(history)

        async def go() -> None:
            closed = asyncio.Event()
            board = Board(hub, history)
            board.when_closed(closed.set)
            await board.begin()
            await board.begin()
            while not hub.listeners:
                await asyncio.sleep(0.001)
            assert [a.request for a in board.latest()] == ["r1"]
            before = board.version
            hub.publish(record(2))
            while board.version == before:
                await asyncio.sleep(0.001)
            assert [a.request for a in board.latest()] == ["r2", "r1"]
            assert hub.listeners == 1
            hub.close()
            await asyncio.wait_for(closed.wait(), 5)

        asyncio.run(go())


def call(
    path: str, method: str = "GET", body: bytes = b"<head></head>", **headers: str
) -> tuple[int, dict[str, str], bytes, Any]:
    """Ask a fence around an application that answers everything with `body`."""
    reached: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"etag", b"x")]})
        await send({"type": "http.response.body", "body": body})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "path": "/ui" + path, "root_path": "/ui", "method": method,
             "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}  # fmt: skip
    asyncio.run(fence.Fence(app)(scope, receive, send))
    got = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(m.get("body", b"") for m in sent[1:]), (reached or [None])[0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/proxy=http://x/"),
        ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/call/send"), ("GET", "/gradio_api/info"),
        ("POST", "/login"), ("GET", "/monitoring"), ("GET", "/gradio_api/runs"), ("PUT", "/"),
        ("GET", "/gradio_api/token"), ("GET", "/gradio_api/openapi.json"),
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(method: str, path: str) -> None:
    status, _, _, reached = call(path, method)
    assert (status, reached) == (404, None)


def test_the_document_names_no_other_host_and_runs_no_script_but_its_own() -> None:
    page = (b'<html><head><meta property="og:image" content="https://elsewhere/x"/><script>let a = 1;</script></head>'
            b"<body><script src='x.js'></script></body></html>")  # fmt: skip
    status, headers, body, reached = call("/", body=page, origin="http://x", **{"accept-encoding": "br"})
    assert status == 200
    assert b"elsewhere" not in body
    assert b"page.css" in body
    policy = headers["content-security-policy"]
    import base64
    import hashlib

    assert f"'sha256-{base64.b64encode(hashlib.sha256(b'let a = 1;').digest()).decode()}'" in policy
    assert policy.count("sha256-") == 1
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert "http" not in policy
    assert headers["content-length"] == str(len(body))
    assert "etag" not in headers
    assert not {k for k, _ in reached["headers"]} & {b"origin", b"accept-encoding"}
    for path in ("/page.css", "/page.js"):
        status, headers, body, reached = call(path)
        assert (status, reached) == (200, None)
        assert len(body) > 500
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_of_the_pages_own_files_is_fetched_from_elsewhere() -> None:
    folder = Path(fence.__file__).parent
    for name in ("page.css", "page.js"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|url\(", text), name
