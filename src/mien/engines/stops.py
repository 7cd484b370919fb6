"""Where answers end: stop strings among an answer's tokens, and the text that may be shown while it is being written.

This file does not know models or batches, only ids and the texts that a tokenizer makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from mien.chat import Chat

STOP_MEMORY = 12
"""Tokens within which a model's own stop string must have been recognised; the longest is three to six."""
_WINDOW = 16
"""Tokens that are decoded anew for each further one, at most."""
_CONTEXT = 6
"""Tokens before a window that are decoded with it: what a token's text is can depend on its neighbour on the left."""
_LONGEST = 24
"""Tokens that may be decoded to a broken character at their end before they are taken as they are."""
_BROKEN = "�"


def before_stop(chat: Chat, ids: Sequence[int], stops: Sequence[str], memory: int = STOP_MEMORY) -> int | None:
    """How many of `ids` stand before a stop string that the newest `memory` of them complete; None if there is none."""
    if not stops:
        return None
    tail = ids[-memory:]
    text = chat.raw_text(tail)
    starts = [text.find(stop) for stop in stops if stop in text]
    if not starts:
        return None
    start = min(starts)
    # Compared as text: a letter of which some bytes are still to come is decoded as another one.
    texts = (chat.raw_text(tail[:n]) for n in range(len(tail) + 1))
    keep, before = next((n, t) for n, t in enumerate(texts) if len(t) >= start and t[:start] == text[:start])
    if before[start:].strip():  # the last token holds a part of the stop string, not only the blanks before it
        keep -= 1
    return len(ids) - len(tail) + keep


def special_ids(chat: Chat) -> frozenset[int]:
    """Ids that are no text."""
    added = getattr(chat.tokenizer, "added_tokens_decoder", {})
    return frozenset({*chat.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)})


class Spoken:
    """An answer's text as its tokens come: what may be shown, and when a stop string has been said.

    Stop strings are looked for in the text with special tokens written out; what is shown is without them.
    """

    def __init__(self, chat: Chat, stops: Sequence[str], hidden: frozenset[int]) -> None:
        """`hidden`: ids of special tokens."""
        self.ids: list[int] = []
        self._chat = chat
        self._stops = tuple(stops)
        self._hidden_ids = hidden
        self._raw = ""
        """What is settled."""
        self._hidden: list[tuple[int, int]] = []
        """Parts of it that are special tokens."""
        self._ends: list[int] = []
        """Where in it each token ends."""
        self._anchor = 0
        """First token of the window."""
        self._known = ""
        """The window's text, as far as it is settled."""
        self._pending = ""
        """What comes after it, which ends in a broken character."""
        self._searched = 0
        self._shown = 0
        self.stopped_at: int | None = None
        """Where in the settled text a stop string begins."""

    def add(self, token: int) -> str:
        """Take a token; gives what may be shown now. Look at `stopped_at` then."""
        self.ids.append(token)
        text = self._chat.raw_text(self.ids[self._anchor :])
        piece = text[_common(self._known, text) :]
        if piece.endswith(_BROKEN) and len(self.ids) - self._anchor < _CONTEXT + _LONGEST:
            self._pending = piece
            self._ends.append(len(self._raw))
            return ""
        self._settle(piece, text)
        self._ends.append(len(self._raw))
        if token in self._hidden_ids:
            # Not what stood before it: that is a broken letter which is now known to stay one.
            own = self._chat.raw_text([token])
            self._hidden.append((len(self._raw) - min(len(own), len(piece)), len(self._raw)))
        self._look_for_stops()
        return self._show(self._safe() if self.stopped_at is None else self._shown)

    def kept(self) -> int:
        """How many tokens stand before the stop string that was said."""
        assert self.stopped_at is not None
        whole = sum(end <= self.stopped_at for end in self._ends)
        memory = max(STOP_MEMORY, len(self.ids) - whole + _CONTEXT)
        found = before_stop(self._chat, self.ids, self._stops, memory)
        if found is None:  # decoded from another token on, the text may have another beginning
            found = whole
        # The newest token completed the stop string, so it belongs to it in part at least.
        return min(found, len(self.ids) - 1)

    def text(self) -> str:
        """All that has been said, up to a stop string."""
        return self._visible(0, self._end()) + (self._pending if self.stopped_at is None else "")

    def rest(self) -> str:
        """What of `text` has not been shown."""
        return self._visible(self._shown, self._end()) + (self._pending if self.stopped_at is None else "")

    def _end(self) -> int:
        return len(self._raw) if self.stopped_at is None else self.stopped_at

    def _settle(self, piece: str, text: str) -> None:
        self._raw += piece
        self._known, self._pending = text, ""
        if len(self.ids) - self._anchor >= _WINDOW:
            self._anchor = len(self.ids) - _CONTEXT
            self._known = self._chat.raw_text(self.ids[self._anchor :])

    def _look_for_stops(self) -> None:
        found = []
        for stop in self._stops:
            start = self._raw.find(stop, max(0, self._searched - len(stop) + 1))
            if start >= 0:
                found.append(start)
        self._searched = len(self._raw)
        self.stopped_at = min(found, default=None)

    def _safe(self) -> int:
        """Up to where the text holds no beginning of a stop string that may still be completed."""
        end = len(self._raw)
        held = (
            n for stop in self._stops for n in range(min(len(stop) - 1, end), 0, -1) if self._raw.endswith(stop[:n])
        )
        return end - max(held, default=0)

    def _show(self, end: int) -> str:
        end = max(end, self._shown)
        shown = self._visible(self._shown, end)
        self._shown = end
        return shown

    def _visible(self, start: int, end: int) -> str:
        """The settled text between two places, without special tokens."""
        if not self._hidden:
            return self._raw[start:end]
        edges = [start, *(min(max(e, start), end) for pair in self._hidden for e in pair), end]
        return "".join(self._raw[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))


def _common(known: str, text: str) -> int:
    """How long the common beginning is. Nearly always all of `known`."""
    if text.startswith(known):
        return len(known)
    return sum(accumulate((a == b for a, b in zip(known, text, strict=False)), lambda x, y: x and y))
