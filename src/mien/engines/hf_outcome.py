"""What a pass over rows came to, brought to the CPU in one transfer; each answer then takes its own part.

This file does not know caches, hooks or how rows are chosen. Shapes: b rows, s columns of the pass, p probes.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """

    def __init__(self, passed: Passed, answers: Sequence[Answer], chooser: Chooser, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._top = max((a.request.top_logprobs for a in answers), default=0)
        parts = {}
        if passed.logits is not None:
            parts["drawn"] = self._draw(passed.logits, answers, chooser)
        if passed.fired is not None:
            parts["fired"] = passed.fired
        if passed.projections is not None:
            parts["projections"] = passed.projections
        self._parts = _together(parts)

    def of_prompt(self, answer: Answer, row: int) -> list[LiveEvent]:
        """Tell an answer how far its prompt is read; the first token may come of it."""
        n = self._sizes[row]
        answer.read_prompt(n, self._newest("projections", row, n), self._newest("fired", row, n))
        return self._take(answer, row)

    def of_token(self, answer: Answer, row: int) -> list[LiveEvent]:
        """Tell an answer that its newest token was fed, and what comes next."""
        answer.read_token(self._newest("projections", row, 1), self._newest("fired", row, 1))
        return self._take(answer, row)

    def _newest(self, name: str, row: int, n: int) -> np.ndarray | None:
        """A row's last `n` columns: those in front of them are padding."""
        return self._parts[name][row, -n:] if name in self._parts else None

    def _take(self, answer: Answer, row: int) -> list[LiveEvent]:
        if "drawn" not in self._parts:
            return answer.close()
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
    flat = [part.flatten(1) for part in parts.values()]
    packed = torch.cat([part.to(flat[0].device) for part in flat], 1).cpu().numpy()
    split = np.split(packed, np.cumsum([part.shape[1] for part in flat])[:-1], 1)
    return {name: piece.reshape(part.shape) for (name, part), piece in zip(parts.items(), split, strict=True)}
