"""Drawing the next token of every row of a batch, each row from its own random stream.

A row's token depends on its own logits and its own draw, never on its neighbours. This file does not know what wrote
the logits, nor what becomes of the tokens. Shapes: b batch, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mien.errors import InputError
from mien.records import Sampling
from mien.residual import require_finite

NUCLEUS = 1024
"""How many of the likeliest tokens are sorted first: nearly always the whole nucleus is among them."""


def check_sampling(sampling: Sampling) -> None:
    """Raises: InputError: sampling is out of range."""
    if sampling.max_tokens < 1:
        raise InputError(f"An answer needs room for one token at least, not {sampling.max_tokens}.")
    if not 0 <= sampling.temperature < float("inf"):
        raise InputError(f"The temperature is 0 (greedy) or a positive number, not {sampling.temperature}.")
    if not 0 < sampling.top_p <= 1:
        raise InputError(f"top_p is above 0 and at most 1, not {sampling.top_p}.")


def stream(seed: int, n: int) -> torch.Tensor:
    """`[n]` float64: the uniform numbers that an answer's tokens are drawn with. A longer stream only goes on."""
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> tuple[list[int], list[float]]:
    """Next token of each row, `logits` `[b, v]`, `draws` `[b]`; log-probabilities at temperature 1, whatever
    temperature was drawn at.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
    """
    scores = logits.float()
    require_finite(scores, "Logits")
    if scores.device.type == "mps":  # has no float64
        scores = scores.cpu()
    plain = scores.log_softmax(-1)
    if sampling.temperature == 0:
        chosen = scores.argmax(-1)
    else:
        nucleus = None if sampling.top_p == 1 else sampling.top_p
        chosen = draw(scores, draws, sampling.temperature, nucleus)
    return chosen.tolist(), plain.gather(1, chosen[:, None])[:, 0].tolist()


def draw(
    scores: torch.Tensor,
    draws: torch.Tensor,
    temperature: float | torch.Tensor,
    top_p: float | torch.Tensor | None,
) -> torch.Tensor:
    """`[b]` ids, by inverting the cumulative distribution of each row of `scores` `[b, v]` float32 at its draw.

    `temperature` and `top_p` are one for all rows, or `[b, 1]`; a `top_p` of None leaves the distribution whole.
    """
    # Shifted first: at a very low temperature the scores themselves would become infinite.
    probabilities = ((scores - scores.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p is not None:
        probabilities = within_nucleus(probabilities, top_p)
    ladder = probabilities.cumsum(-1, dtype=torch.float64)
    height = draws.to(ladder.device)[:, None] * ladder[:, -1:]
    return torch.searchsorted(ladder, height, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)


def within_nucleus(probabilities: torch.Tensor, top_p: float | torch.Tensor) -> torch.Tensor:
    """`probabilities` `[b, v]` with all but the fewest likeliest tokens of mass `top_p` set to 0."""
    if probabilities.shape[-1] <= 2 * NUCLEUS:
        return _nucleus_of_all(probabilities, top_p)
    # In the order of a sort of everything: equal ones by their place.
    place = probabilities.topk(NUCLEUS, -1).indices.sort(-1).values
    some, order = probabilities.gather(-1, place).sort(dim=-1, descending=True, stable=True)
    outside = some.cumsum(-1) - some >= top_p
    kept = torch.zeros_like(probabilities).scatter_(-1, place.gather(-1, order), some.masked_fill(outside, 0))
    # It must end among them, and before any that equals one left behind.
    doubtful = (~outside & (some <= some[:, -1:])).any(-1) | ~outside[:, -1]
    rows = doubtful.nonzero()[:, 0]
    if len(rows):
        kept[rows] = _nucleus_of_all(probabilities[rows], top_p[rows] if isinstance(top_p, torch.Tensor) else top_p)
    return kept


def _nucleus_of_all(probabilities: torch.Tensor, top_p: float | torch.Tensor) -> torch.Tensor:
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0))


@dataclass(frozen=True)
class Chooser:
    """Draws for rows of which each has its own sampling. Made anew when the rows change.

    Rows are sorted into three kinds, so that greedy ones cost one pass over the logits and only those with a nucleus
    pay for its sorting.
    """

    device: torch.device
    """Where logits are to be."""
    kinds: tuple[tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None], ...]
    """Rows that draw (None: all), their temperatures `[n, 1]`, their nuclei `[n, 1]` or None."""

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> Chooser:
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        whole = [i for i, s in enumerate(samplings) if s.temperature > 0 and s.top_p == 1]
        cut = [i for i, s in enumerate(samplings) if s.temperature > 0 and s.top_p < 1]
        limits = torch.finfo(torch.float32)
        kinds = []
        for rows in (whole, cut):
            if rows:
                hot = torch.tensor([samplings[i].temperature for i in rows], dtype=torch.float64)
                nuclei = torch.tensor([samplings[i].top_p for i in rows], dtype=torch.float32)[:, None].to(device)
                kinds.append((
                    None if len(rows) == len(samplings) else torch.tensor(rows, device=device),
                    hot.clamp(limits.tiny, limits.max).float()[:, None].to(device),
                    nuclei if rows is cut else None,
                ))  # fmt: skip
        return cls(device, tuple(kinds))

    def choose(self, scores: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """`[b]` ids from `scores` `[b, v]` float32, on `device` as `draws` `[b]` float64 are."""
        if len(self.kinds) == 1 and self.kinds[0][0] is None:
            _, temperature, top_p = self.kinds[0]
            return draw(scores, draws, temperature, top_p)
        chosen = scores.argmax(-1)
        for rows, temperature, top_p in self.kinds:
            assert rows is not None
            chosen[rows] = draw(scores[rows], draws[rows], temperature, top_p)
        return chosen
