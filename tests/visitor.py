"""A person at the page, in a real Chromium driven by playwright, who looks, types and clicks.

with visiting(chromium, api) as page: page.say("What now?"); assert page.answers()[-1] == ...
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from serving import Api

WAIT = 60_000
"""Milliseconds that something may take to be seen; far more than it does."""


class Visitor:
    """One browser tab on the page."""

    def __init__(self, page: Any, api: Api, query: str = "") -> None:
        self.page, self.api = page, api
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(WAIT)
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("request", lambda r: self.hosts.add(r.url.split("/")[2] if r.url.startswith("http") else "local"))
        page.goto(f"http://127.0.0.1:{api.port}/ui/{query}")
        page.wait_for_function(
            "[...document.querySelectorAll('#gauges button, #gauges .quiet, #history-heading')]"
            ".some(e => e.offsetParent)"
        )

    def say(self, text: str, wait: bool = True) -> None:
        """Type a message, press Enter, and watch it being answered."""
        before = self.page.locator("#past .turn.you").count()
        self.page.fill("#message textarea", text)
        self.page.press("#message textarea", "Enter")
        if wait:
            self.page.wait_for_function(
                "document.querySelector('#now .notice') || "
                f"document.querySelectorAll('#past .turn.you').length > {before}"
            )
            assert not self.page.locator("#now .notice").count(), self.page.locator("#now .notice").inner_text()
            self.page.wait_for_selector("#send", state="visible")

    def answers(self) -> list[str]:
        """Texts of the answers that are over."""
        return [t.rstrip() for t in self.page.locator("#past .turn.model .text").all_inner_texts()]

    def sigma(self, gauge: str) -> list[float]:
        """What a gauge shows, a number a lane."""
        row = self.page.locator(f'#gauges button[data-gauge="{gauge}"] .value')
        shown: list[str] = row.all_inner_texts()
        return [float(value.replace("\u2212", "-")) for value in shown if re.search(r"\d", value)]

    def instruct(self, system: str) -> None:
        """Give a system prompt."""
        if not self.page.locator("#system textarea").is_visible():
            self.page.click("#settings > button")
        self.page.fill("#system textarea", system)

    def sample(self, temperature: float, most: int) -> None:
        """Set how answers are drawn."""
        if not self.page.locator("#system textarea").is_visible():
            self.page.click("#settings > button")
        values = {"temperature": temperature, "most": most}
        wanted = {f"#{id} input[type=number]": str(value) for id, value in values.items()}
        # What has just been opened is once more set to its first value, and takes what was typed before that with it.
        for _ in range(20):
            for at, value in wanted.items():
                self.page.fill(at, value)
                self.page.press(at, "Tab")
            self.page.wait_for_timeout(200)
            if all(self.page.input_value(at) == value for at, value in wanted.items()):
                return
        raise AssertionError(f"the page does not keep {wanted}")

    def way(self, label: str) -> None:
        """Choose how messages are answered."""
        self.page.get_by_text(label, exact=True).click()

    def focused(self) -> str:
        """Where the keyboard is: the nearest id."""
        found: str = self.page.evaluate("document.activeElement.closest('[id]:not([id^=range]):not([id^=html])')?.id")
        return found

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window, or a part of it wider than the page."""
        found: int = self.page.evaluate(
            """Math.max(document.documentElement.scrollWidth - innerWidth, ...[...document.querySelectorAll(
            '#top, #left, #right, #talk, #composer, #gauges, #drift, #alarms, #history')].filter(e => e.offsetParent)
            .map(e => Math.ceil(e.getBoundingClientRect().right) - innerWidth))"""
        )
        return found


@contextlib.contextmanager
def visiting(
    browser: Any, api: Api, width: int = 1280, height: int = 860, query: str = "", **more: Any
) -> Iterator[Visitor]:
    """A visitor with nothing of earlier visits; the tab is closed on leaving."""
    context = browser.new_context(viewport={"width": width, "height": height}, **more)
    try:
        yield Visitor(context.new_page(), api, query)
    finally:
        context.close()
