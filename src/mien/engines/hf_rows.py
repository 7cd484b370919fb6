"""Which answer has which slot of the cache, and how large the cache is: rows that write first, then rows whose prompt
is being read, without holes.

This file does not know models, sampling or texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from mien.engines.hf_answer import Answer
from mien.engines.hf_kept import Kept, Shelf
from mien.engines.hf_slots import BLOCK, SlotCache

WORTH = 8
"""Tokens that must be saved for it to be worth while to wait for them and to copy them."""


class Rows:
    """Answers in the order of their slots.

    Args:
        cache: what holds their keys and values.
        max_rows: most answers at a time.
        cache_tokens: most tokens, unused columns included, that the cache may come to hold.
        kept_tokens: most tokens of answers that are over that are kept beside it.
    """

    def __init__(self, cache: SlotCache, max_rows: int, cache_tokens: int, kept_tokens: int) -> None:
        self._cache = cache
        self._max_rows = max_rows
        self._cache_tokens = cache_tokens
        self.shelf = Shelf(kept_tokens)
        """What is left of answers that are over."""
        self.answers: list[Answer] = []
        self.writing = 0
        """The first so many write, the others' prompts are being read."""
        self.changes = 0
        """Grows whenever another answer has a slot among those that write."""

    @property
    def writers(self) -> Sequence[Answer]:
        return self.answers[: self.writing]

    @property
    def prompts(self) -> Sequence[Answer]:
        return self.answers[self.writing :]

    def fits(self, need: int) -> bool:
        """Whether there is room for one more, were all to become as long as they can."""
        rows = len(self.answers) + 1
        return rows <= self._max_rows and rows * self._columns(max(self._need, need)) <= self._cache_tokens

    def add(self, answer: Answer) -> None:
        """Give a new answer the last slot."""
        self.answers.append(answer)

    def remove(self, answers: Sequence[Answer]) -> None:
        """Take answers out, and keep what others may begin with."""
        for answer in answers:  # first: to take one out moves another
            if answer.broken and (row := self.answers.index(answer)) < self._cache.rows:
                self._cache.wipe(row)
        for answer in answers:
            self._remove(answer)

    def _remove(self, answer: Answer) -> None:
        row = self.answers.index(answer)
        if row < self._cache.rows and not answer.broken:
            self._keep(answer, row)
        if row < self.writing:
            self.writing -= 1
            self._move(self.writing, row)
            row = self.writing
            self.changes += 1
        self._move(len(self.answers) - 1, row)
        self.answers.pop()

    def borrow(self, answer: Answer) -> None:
        """Let an answer take over what another one's prompt has in common with its own."""
        best: Answer | Kept = answer
        n = answer.fed + WORTH - 1
        others: list[Answer | Kept] = [*self.answers, *(() if answer.fed else self.shelf.texts)]
        for other in others:
            if other is not answer and (has := answer.may_borrow(other, n)) > n:
                best, n = other, has
        if best is answer:
            return
        row = self.answers.index(answer)
        if isinstance(best, Answer):
            self._cache.move(self.answers.index(best), row, n)
        elif not self._pasted(row, best, n):
            return
        answer.borrow(best, n)

    def front(self, chosen: Sequence[Answer]) -> int:
        """Put some of those whose prompts are read side by side, first among these; gives the first one's slot."""
        for place, answer in enumerate(chosen, self.writing):
            self._swap(place, self.answers.index(answer))
        return self.writing

    def promote(self, answer: Answer) -> None:
        """Its prompt is read: now it writes."""
        self._swap(self.writing, self.answers.index(answer))
        self.writing += 1
        self.changes += 1

    def make_room(self) -> None:
        """Grow the cache to what the next step needs, or give back what is no longer needed.

        Raises:
            Exception: there is no such memory; the cache is as it was.
        """
        cache, n = self._cache, len(self.answers)
        if not n:
            if cache.rows:
                cache.resize(0, 0)
            return
        # Whole prompts, as their beginnings may be taken over from others, and a first token is fed in the same step.
        now = self._columns(max(min(a.fed + a.left + 1, a.need) for a in self.answers))
        most = self._columns(self._need)
        rows, columns = cache.rows, cache.columns
        if now > columns:
            columns = max(now, min(self._columns(columns * 3 // 2), most))
        elif columns > 2 * most:
            columns = most
        if n > rows:
            rows = max(n, min(2 * rows, self._max_rows, self._cache_tokens // columns))
        elif rows > 4 * n:
            rows = 2 * n
        # Wider than they were thought to become when the rows were made.
        rows = max(n, min(rows, self._cache_tokens // columns))
        if (rows, columns) != (cache.rows, cache.columns):
            cache.resize(rows, columns)

    def _pasted(self, row: int, kept: Kept, length: int) -> bool:
        try:
            self._cache.paste(row, self.shelf.take(kept), length)
        except Exception:  # out of memory has many names
            self.shelf.clear()
            return False
        return True

    def _keep(self, answer: Answer, row: int) -> None:
        kept = answer.kept()
        if kept is not None and kept.fed >= WORTH and self.shelf.wants(kept):
            try:
                self.shelf.put(kept, self._cache.copy(row, kept.fed))
            except Exception:  # out of memory has many names
                self.shelf.clear()

    @property
    def _need(self) -> int:
        return max((a.need for a in self.answers), default=0)

    def _columns(self, tokens: int) -> int:
        return min(-(-tokens // BLOCK) * BLOCK, max(tokens, self._cache_tokens))

    def _move(self, source: int, target: int) -> None:
        if source == target:
            return
        answer = self.answers[target] = self.answers[source]
        if answer.fed:
            self._cache.move(source, target, answer.fed)

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        answers = self.answers
        longest = max(answers[one].fed, answers[other].fed)
        if longest:
            self._cache.swap(one, other, longest)
        answers[one], answers[other] = answers[other], answers[one]
