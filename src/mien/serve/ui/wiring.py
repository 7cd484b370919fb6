"""What happens when somebody uses the page: handlers of Gradio's events, between the session and the server's parts."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from mien.errors import MienError
from mien.records import Sampling
from mien.report.svg import tag
from mien.serve.problems import Problem, of_error
from mien.serve.server import Server
from mien.serve.ui import view_chat, view_drift, view_gauges, view_history
from mien.serve.ui.board import Board
from mien.serve.ui.faces import Face, faces_of, live_tints, pushed_words, pushes, steerable
from mien.serve.ui.layout import LONGEST_MESSAGE, MOST_SLIDERS, REACH, Parts
from mien.serve.ui.session import LANES, Answer, Exchange, Lane, Session, firing, may_decide
from mien.serve.ui.talk import Draft, follow, orders

_log = logging.getLogger("mien.serve")
Updates = dict[Any, Any]


class Wiring:
    """Handlers of one page. A session is the same object in all of a visitor's events, and is changed in place."""

    def __init__(self, server: Server, parts: Parts, board: Board) -> None:
        self._server, self._at, self._board = server, parts, board
        self._faces = faces_of(server.catalog)
        self._decides = may_decide(server.rule, server.settings.keys)
        self._directions = steerable(server.catalog)[:MOST_SLIDERS] if self._decides else []

    def connect(self, blocks: Any) -> None:
        """Add the handlers; inside the blocks' context."""
        at = self._at
        quiet: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None,
        }  # fmt: skip
        views = [at.legend, at.past, at.now, at.gauges, at.drift_title, at.drift, at.hold, at.alarms]
        controls = [at.message, at.send, at.stop]
        asked = [at.session, at.message, at.mode, at.system, at.temperature, at.most, *at.sliders]
        gr.on([at.message.submit, at.send.click], self.send, asked, [*views, *controls],
              trigger_mode="multiple", **quiet)  # fmt: skip
        at.stop.click(self.stop, at.session, [], **quiet)
        at.reset.click(self.reset, [at.session, at.mode], [*views, *controls], **quiet)
        at.mode.change(self.look, [at.session, at.mode], views, **quiet)
        at.gauges.click(self.choose, [at.session, at.mode], views, **quiet)
        at.timer.tick(self.tick, at.session, at.alarms, **quiet)
        opening = [at.main, at.history, at.history_title, at.turns]
        at.alarms.click(self.open, [at.session, at.mode], opening, **quiet)
        at.back.click(self.back, at.session, opening, **quiet)
        if at.sliders:
            at.pick.change(self.pick, at.pick, list(at.sliders), **quiet)
        blocks.load(self.begin, [at.session, at.mode], [*views, *opening, at.head], **quiet)

    async def begin(self, session: Session, mode: str, request: gr.Request) -> Updates:
        """Somebody comes, perhaps by a link to a conversation of the history."""
        await self._board.begin()
        session.begin()
        session.chosen = next((f.name for f in self._faces if f.limit is not None), None)
        updates = {self._at.head: self._head(), **self._views(session, mode)}
        wanted = request.query_params.get("conversation")
        return {**updates, **(await self._opened(session, wanted, None) if wanted else {})}

    async def send(
        self, session: Session, message: str, mode: str, system: str, temperature: float, most: float, *coefs: float
    ) -> AsyncGenerator[Updates, None]:
        """Somebody says something: the answer as it grows."""
        message, system = _sound(message), _sound(system)
        if session.busy or not message.strip():
            yield {self._at.message: gr.skip()}
            return
        session.busy, session.stopping = True, False
        try:
            named = {n: _within(c, -REACH, REACH) for n, c in zip(self._directions, coefs, strict=True)}
            sampling = Sampling(
                int(_within(most, 1, self._server.settings.limits.max_tokens)), _within(temperature, 0, 2)
            )
            async with aclosing(self._answered(session, message, mode, system, sampling, named)) as updates:
                async for update in updates:
                    yield update
        finally:
            session.busy = False

    async def _answered(
        self, session: Session, message: str, mode: str, system: str, sampling: Sampling, coefs: dict[str, float]
    ) -> AsyncGenerator[Updates, None]:
        at, server, id = self._at, self._server, session.id
        lanes = LANES.get(mode, ("plain",))
        drafts = [Draft(lane) for lane in lanes]
        writing = {at.message: "", at.send: gr.update(visible=False), at.stop: gr.update(visible=True)}
        if not session.exchanges:
            writing[at.past] = ""  # the welcome makes room
        yield {**writing, **self._growing(session, message, drafts)}
        problem: Problem | None = None
        try:
            acts = pushes(server.catalog, coefs)
            wanted = orders(
                session, lanes, message, system, sampling, acts, server.catalog.watched, server.rule, self._decides
            )
            async with aclosing(follow(server.conductor.run, wanted, lambda: session.stopping)) as seen:
                async for drafts in seen:
                    yield self._growing(session, message, drafts)
        except MienError as error:
            problem = of_error(error)
        problem = next((d.problem for d in drafts if d.problem), problem)
        answers = tuple(d.answer() for d in drafts if d.problem is None and (d.over or d.text))
        if answers and session.id == id:  # else the visitor began anew meanwhile
            session.exchanges.append(Exchange(message, answers, pushed_words(coefs), bool(system.strip())))
        rest: Updates = {at.send: gr.update(visible=True), at.stop: gr.update(visible=False)}
        views = self._views(session, mode)
        if problem is not None:
            views[at.now] = str(view_chat.notice(problem.message))
            if not answers:
                rest[at.message] = message
        yield {**rest, **views}

    async def stop(self, session: Session) -> None:
        """The visitor has read enough; what is there stays."""
        session.stopping = True

    async def reset(self, session: Session, mode: str) -> Updates:
        """Begin anew."""
        session.stopping = True
        session.begin()
        at = self._at
        shown = {at.message: "", at.send: gr.update(visible=True), at.stop: gr.update(visible=False)}
        return {**shown, **self._views(session, mode)}

    async def look(self, session: Session, mode: str) -> Updates:
        """Other lanes are to be shown."""
        views = self._views(session, mode)
        return {k: v for k, v in views.items() if k is not self._at.now} if session.busy else views

    async def choose(self, session: Session, mode: str, event: gr.EventData) -> Updates:
        """Another gauge is to be charted and tinted by."""
        wanted = getattr(event, "gauge", None)
        if any(f.name == wanted for f in self._faces):
            session.chosen = wanted
        return await self.look(session, mode)

    async def pick(self, names: list[str] | None) -> list[Any]:
        """Other directions are to have sliders; one that goes is set to 0, so that nothing pushes unseen."""
        shown = set(names or ())
        return [gr.update(visible=True) if n in shown else gr.update(visible=False, value=0) for n in self._directions]

    async def tick(self, session: Session) -> Any:
        """Alarms, if there are new ones."""
        return gr.skip() if session.seen == self._version() else self._alarms(session)

    async def open(self, session: Session, mode: str, event: gr.EventData) -> Updates:
        """The conversation of an alarm."""
        del mode
        return await self._opened(session, str(getattr(event, "conversation", "")), getattr(event, "gauge", None))

    async def back(self, session: Session) -> Updates:
        """Back from the history."""
        del session
        at = self._at
        return {at.main: gr.update(visible=True), at.history: gr.update(visible=False), at.turns: "",
                at.history_title: ""}  # fmt: skip

    async def _opened(self, session: Session, id: str, gauge: str | None) -> Updates:
        at, server = self._at, self._server
        try:
            turns = await server.conductor.recorder.aside(server.history.conversation, id)
            body = view_history.conversation(id, turns, gauge, self._said(session, id))
        except MienError as error:
            _log.error("the page could not read the history: %s", error)
            body = view_chat.notice(of_error(error).message)
        title = tag("h2", "Conversation", tabindex="-1", id="history-heading")
        return {at.main: gr.update(visible=False), at.history: gr.update(visible=True), at.history_title: str(title),
                at.turns: str(body)}  # fmt: skip

    def _said(self, session: Session, id: str) -> dict[int, str]:
        """Texts of the visitor's own conversation, which the history may not keep; by message index."""
        lane: Lane = "held" if id != session.id else "plain"
        if session.conversation(lane) != id:
            return {}
        return view_history.texts_of(session, lane)

    def _head(self) -> str:
        rule, to = self._server.rule, self._server.hold_name or "its range"
        words = {
            "watch": "watches", "alert": "watches and alerts", "hold-on-alarm": f"holds to {to} after an alarm",
            "hold": f"holds every answer to {to}", "refuse": "goes on with no conversation that drifted",
        }[rule.policy]  # fmt: skip
        can = f"; can hold to {to}" if rule.can_hold and "hold" not in rule.policy else ""
        return str(tag("h1", tag("b", "mien"), " ", tag("span", self._server.name)) + tag("p", f"{words}{can}"))

    @staticmethod
    def _drift_title(name: str, shown: Iterable[Sequence[Answer]]) -> str:
        """With the message since which the conversation is off, if it is."""
        last = (answers[-1].reading(name) for answers in shown if answers)
        since = next((r.since for r in last if r and r.since is not None), None)
        told = "" if since is None else f"drifted since message {since + 1}"
        return tag("h2", tag("span", "Drift on ", tag("b", name)), tag("span", told, class_="off"))

    def _face(self, session: Session) -> Face | None:
        return next((f for f in self._faces if f.name == session.chosen), None)

    def _step(self, session: Session) -> float:
        return view_chat.tint_step([a for e in session.exchanges for a in e.answers], session.chosen)

    def _version(self) -> int:
        return self._board.version * 10**6 + int(time.time() // 60) % 10**6

    def _alarms(self, session: Session) -> str:
        session.seen = self._version()
        mine = {session.id: "this conversation", f"{session.id}-held": "this conversation, held"}
        return str(view_history.alarms(self._board.latest(), mine, time.time()))

    def _growing(self, session: Session, message: str, drafts: Sequence[Draft]) -> Updates:
        """What changes while an answer is written."""
        panel, place = self._server.catalog.panel, len(session.exchanges) + 1
        tints: dict[Lane, list[float | None]] = {}
        if panel is not None and session.chosen is not None:
            chosen = session.chosen
            tints = {d.lane: live_tints(panel, chosen, [r.get(chosen) for r in d.raws], d.text, place) for d in drafts}
        needles = [view_gauges.needle_of(d) for d in drafts]
        at = self._at
        return {
            at.now: str(view_chat.now(message, drafts, tints, self._step(session))),
            at.gauges: str(view_gauges.gauges(self._faces, needles, session.chosen)),
        }

    def _views(self, session: Session, mode: str) -> Updates:
        """Everything, as it is while nothing is written."""
        at, face, step = self._at, self._face(session), self._step(session)
        lanes = LANES.get(mode, ("plain",))
        shown = {lane: list(session.lane_answers(lane)) for lane in lanes}
        if len(lanes) > 1 and shown[lanes[0]] == shown[lanes[1]]:  # nothing has been answered twice yet
            shown = {lanes[0]: shown[lanes[0]]}
        needles = [view_gauges.needle_of(answers[-1]) for answers in shown.values() if answers]
        name = face.name if face else ""
        lines = [
            view_drift.Line(lane, tuple((i, r.statistic) for i, a in enumerate(answers, 1) if (r := a.reading(name))))
            for lane, answers in shown.items()
        ]
        held = [a for e in session.exchanges for a in e.answers]
        past = view_chat.past(session.exchanges, lanes, face, step)
        if not (past or session.busy):
            past = view_chat.welcome(self._server.name)
        views = {
            at.legend: view_chat.legend(name or None, step), at.past: past,
            at.now: "", at.gauges: view_gauges.gauges(self._faces, needles, session.chosen),
            at.drift_title: self._drift_title(name, shown.values()) if face else "",
            at.drift: view_drift.drift(name, lines) if face else "",
            at.hold: view_gauges.hold(self._server.rule.can_hold, self._server.hold_name or "", firing(held)),
            at.alarms: self._alarms(session),
        }  # fmt: skip
        return {part: str(html) for part, html in views.items()}


def _sound(text: str | None) -> str:
    """Half a surrogate pair is no text; what is too long to be a message is cut."""
    return str(text or "")[:LONGEST_MESSAGE].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _within(value: Any, low: float, high: float) -> float:
    """A number of the browser's, which may be anything."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return max(low, 0.0)
    return min(max(found, low), high) if found == found else max(low, 0.0)
