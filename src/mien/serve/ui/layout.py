"""The page's parts and where they stand, in Gradio. It does not know what happens when one of them is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mien.serve.ui.session import Mode, Session

MOST_SLIDERS = 24
"""Directions that get a slider; each costs the page a component."""
SHOWN_SLIDERS = 4
"""Sliders that are there from the beginning; more are chosen by name."""
TICK = 2.0
"""Seconds between two looks at the list of alarms."""
LONGEST_MESSAGE = 100_000
REACH, STEP = 3.0, 0.25
"""Of a slider, as a coef."""

_ON_GAUGE = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-gauge]');
  if (button) trigger('click', {gauge: button.dataset.gauge});
});"""
_ON_ALARM = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-conversation]');
  if (button) trigger('click', {conversation: button.dataset.conversation, gauge: button.dataset.gauge});
});"""


@dataclass(frozen=True)
class Settings:
    """What the page is laid out for."""

    title: str
    modes: Sequence[tuple[str, Mode]]
    directions: Sequence[str] | None
    """What sliders push along; None: visitors may not."""
    most_tokens: int


@dataclass(frozen=True)
class Parts:
    """Every component that something happens to. Any: Gradio's components have no useful types."""

    session: Any
    timer: Any
    head: Any
    reset: Any
    main: Any
    legend: Any
    past: Any
    now: Any
    mode: Any
    message: Any
    send: Any
    stop: Any
    system: Any
    temperature: Any
    most: Any
    gauges: Any
    drift_title: Any
    drift: Any
    hold: Any
    pick: Any
    sliders: tuple[Any, ...]
    alarms: Any
    history: Any
    history_title: Any
    back: Any
    turns: Any


def lay_out(settings: Settings) -> tuple[Any, Parts]:
    """The page: `(gradio.Blocks, Parts)`. Handlers are added inside the blocks' context."""
    with gr.Blocks(title=f"{settings.title} · mien", analytics_enabled=False, fill_width=True) as blocks:
        session, timer = gr.State(Session()), gr.Timer(TICK)
        with gr.Row(elem_id="top"):
            head = _html("head")
            reset = gr.Button("New conversation", elem_id="reset", size="sm", scale=0)
        with gr.Column(elem_id="main") as main:
            with gr.Column(elem_id="left"):
                legend, (past, now) = _html("legend"), _talk()
                mode, message, send, stop, system, temperature, most = _composer(settings)
            with gr.Column(elem_id="right"):
                gauges, drift_title, drift, hold = _readings()
                pick, sliders = _steering(settings.directions)
                _title("Recent alarms", "alarms-title")
                alarms = _html("alarms", js=_ON_ALARM)
        with gr.Column(elem_id="history", visible=False) as history:
            with gr.Row(elem_id="history-top"):
                history_title = _html("history-title")
                back = gr.Button("Back to the chat", elem_id="back", size="sm", scale=0)
            turns = _html("turns")
    parts = Parts(
        session, timer, head, reset, main, legend, past, now, mode, message, send, stop, system, temperature, most,
        gauges, drift_title, drift, hold, pick, sliders, alarms, history, history_title, back, turns,
    )  # fmt: skip
    return blocks, parts


def _html(id: str, value: str = "", js: str | None = None) -> Any:
    return gr.HTML(value, elem_id=id, js_on_load=js, apply_default_css=False)


def _title(text: str, id: str) -> Any:
    return _html(id, f"<h2>{text}</h2>")


def _talk() -> tuple[Any, Any]:
    """What was said, and apart from it what is being written, so that a token does not send everything again."""
    with gr.Column(elem_id="talk"):
        return _html("past"), _html("now")


def _composer(settings: Settings) -> tuple[Any, ...]:
    with gr.Column(elem_id="composer"):
        mode = gr.Radio(
            list(settings.modes), value=settings.modes[0][1], label="How it is answered", elem_id="mode",
            container=False, visible=len(settings.modes) > 1, show_label=False,
        )  # fmt: skip
        with gr.Row(elem_id="say"):
            message = gr.Textbox(
                label="Message", show_label=False, placeholder="Message", lines=1, max_lines=6, autofocus=True,
                container=False, elem_id="message", max_length=LONGEST_MESSAGE, scale=1,
                html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"),
            )  # fmt: skip
            send = gr.Button("Send", variant="primary", elem_id="send", scale=0, min_width=84)
            stop = gr.Button("Stop", variant="stop", elem_id="stop", scale=0, min_width=84, visible=False)
        with gr.Accordion("System prompt and sampling", open=False, elem_id="settings"):
            system = gr.Textbox(
                label="System prompt", lines=2, max_lines=6, elem_id="system", max_length=LONGEST_MESSAGE
            )
            with gr.Row():
                temperature = gr.Slider(0, 1.5, 0.7, step=0.1, label="Temperature", elem_id="temperature", buttons=[])
                most = gr.Slider(
                    1, settings.most_tokens, min(256, settings.most_tokens), step=1, label="Longest answer, in tokens",
                    elem_id="most", buttons=[],
                )  # fmt: skip
    return mode, message, send, stop, system, temperature, most


def _readings() -> tuple[Any, Any, Any, Any]:
    with gr.Column(elem_classes="part"):
        _title("This answer", "gauges-title")
        gauges = _html("gauges", js=_ON_GAUGE)
    with gr.Column(elem_classes="part"):
        drift_title = _html("drift-title")
        drift = _html("drift")
    with gr.Column(elem_classes="part"):
        _title("Hold", "hold-title")
        hold = _html("hold")
    return gauges, drift_title, drift, hold


def _steering(directions: Sequence[str] | None) -> tuple[Any, tuple[Any, ...]]:
    every = list(directions or ())
    names = every[:MOST_SLIDERS]
    with gr.Column(elem_classes="part", elem_id="steer", visible=directions is not None):
        _title("Push along a direction", "steer-title")
        if not names:
            _html("steer-none", '<p class="quiet">There is none; mien extract makes one.</p>')
        pick = gr.Dropdown(
            names, value=names[:SHOWN_SLIDERS], multiselect=True, label="Directions", elem_id="pick",
            visible=len(names) > SHOWN_SLIDERS, container=False, show_label=False,
        )  # fmt: skip
        sliders = tuple(
            gr.Slider(
                -REACH, REACH, 0, step=STEP, label=name, visible=i < SHOWN_SLIDERS, elem_classes="push", buttons=[],
            )
            for i, name in enumerate(names)
        )  # fmt: skip
        if len(every) > len(names):
            told = f"{len(names)} of {len(every)} directions have a slider: the first by name."
            _html("steer-more", f'<p class="quiet">{told}</p>')
    return pick, sliders
