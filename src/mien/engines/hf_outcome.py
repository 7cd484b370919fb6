"""What a pass over rows came to, brought to the CPU in one transfer; each answer then takes its own part.

This file does not know caches, hooks or how rows are chosen. Shapes: b rows, t their new tokens, p probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from mien.engines.hf_answer import Answer
from mien.engines.hf_pass import Passed
from mien.engines.sampling import Chooser
from mien.live import LiveEvent


class Outcome:
    """The next token of each row with its log-probability and alternatives, projections, and where caps fired.

    Args:
        passed: what the pass gave.
        answers: one a row.
        chooser: their sampling.
        sizes: how many tokens of each were fed.
        writing: the first so many fed a token of their own, the others some of their prompts.
    """

    def __init__(
        self, passed: Passed, answers: Sequence[Answer], chooser: Chooser, sizes: Sequence[int], writing: int
    ) -> None:
        self._ends = list(accumulate(sizes))
        self._sizes = sizes
        self._writing = writing
        self._whole = passed.whole
        self._top = max((a.request.top_logprobs for a in answers), default=0)
        parts = {}
        if passed.logits is not None:
            parts["drawn"] = self._draw(passed.logits, answers, chooser)
        if passed.fired is not None:
            parts["fired"] = passed.fired
        if passed.projections is not None:
            parts["projections"] = passed.projections
        self._parts = _together(parts)

    def tell(self, answer: Answer, row: int) -> list[LiveEvent]:
        """Tell an answer that its newest token was fed, or how far its prompt is read, and what comes next."""
        n, drawn = self._sizes[row], "drawn" in self._parts
        projections, fired = self._new("projections", row), self._new("fired", row)
        if row < self._writing:
            answer.read_token(projections, fired)
            return self._take(answer, row) if drawn else answer.close()
        answer.read_prompt(n, projections, fired)
        return answer.read_on(n, self._whole) if answer.only_read else self._take(answer, row)

    def _new(self, name: str, row: int) -> np.ndarray | None:
        """Of a row's new tokens."""
        end = self._ends[row]
        return self._parts[name][end - self._sizes[row] : end] if name in self._parts else None

    def _take(self, answer: Answer, row: int) -> list[LiveEvent]:
        token, logprob, *rest = self._parts["drawn"][row].tolist()
        n = answer.request.top_logprobs
        top = [(int(i), p) for i, p in zip(rest[:n], rest[self._top :][:n], strict=True)]
        return answer.take(int(token), logprob, top)

    def _draw(self, logits: torch.Tensor, answers: Sequence[Answer], chooser: Chooser) -> torch.Tensor:
        """`[b, 2 + 2 * top]`: ids (float32 holds them exactly), log-probabilities, then both of the likeliest."""
        scores = logits.to(chooser.device, torch.float32)
        total = scores.logsumexp(-1, keepdim=True)
        draws = torch.tensor([a.next_draw for a in answers], dtype=torch.float64).to(chooser.device)
        chosen = chooser.choose(scores, draws)[:, None]
        parts = [chosen.float(), scores.gather(1, chosen) - total]
        if self._top:
            likely, ids = scores.topk(self._top, -1)
            parts += [ids.float(), likely - total]
        return torch.cat(parts, 1)


def _together(parts: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The same on the CPU; a transfer waits for the device, so there is one."""
    if not parts:
        return {}
    flat = [part.flatten() for part in parts.values()]
    packed = torch.cat([part.to(flat[0].device) for part in flat]).cpu().numpy()
    split = np.split(packed, np.cumsum([len(part) for part in flat])[:-1])
    return {name: piece.reshape(part.shape) for (name, part), piece in zip(parts.items(), split, strict=True)}
