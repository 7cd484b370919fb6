"""A hold on alarm learnt by gradient descent. Read `learn`.

Under an attack the held model should predict what the plain one predicts after the question alone; on ordinary text,
what the plain one predicts there. Gates and maps at a few layers are all that is trained, to make small

    mean KL(p(. | x, y_<t) || p_held(. | a, x, y_<t)) + QUIET * mean KL(p(. | z_<t) || p_held(. | z_<t))

over questions x, attacks a, ordinary text z, and answers y that the plain model gave to x or, later, that the held one
gave under attack: else an answer that has begun in a character would go on in it. Maps are as in ReFT (2404.03592),
gates as in conditional steering (2409.05907). A gate is open or shut; gradients pass as if it were soft
(straight-through estimator, 1308.3432).

Shapes: b rows, s columns, d width, k rank, m gates. This file does not know what a hold is worth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mien.chat import ask
from mien.holding.lessons import Lesson, Lessons
from mien.holding.paired import Ids, States
from mien.holding.restoring import LayerStates, discriminant, rounded
from mien.holds import TENSORS
from mien.interventions import Bounds, CapSpace
from mien.models import Model
from mien.progress import Progress
from mien.records import Conversation, Tokens
from mien.residual import edited
from mien.store import write_atomic

QUIET = 4.0
"""What a nat on ordinary text weighs against one under attack."""
RATE, GATE_RATE = 3e-3, 1e-2
"""Adam's, for maps and for gates; they rise over ten steps and fall to a tenth."""
SOFT = 0.5
"""Width of a gate's softness, in standard deviations of what it reads at ordinary tokens."""


class Site(nn.Module):
    """One layer's gates and map, in deviations of ordinary tokens, z = (h - mean) / spread:
    `h + open * ((z @ reads + offset) @ writes) * spread`, open where `z @ gates < limits` for all gates.

    It begins as a map to nothing behind Fisher's discriminants, which open on a share of ordinary and own tokens.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, states: LayerStates, rank: int, opened: float, generator: torch.Generator) -> None:
        super().__init__()
        s = states.wide()
        mean, spread = s.ordinary.mean(0), s.ordinary.std(0) + 1e-3
        attacked, own, ordinary = (
            (x - mean) / spread for x in (s.attacked[s.gating], s.alone[s.gating], s.ordinary)
        )  # fmt: skip
        gates, limits = [], []
        for usual in (ordinary, own):
            gate = discriminant([attacked], usual)
            reading = usual @ gate
            size = max(float(reading.std()), 1e-6)
            gates.append(gate / size)
            limits.append(float(np.quantile(reading, opened)) / size)
        d = len(mean)
        for name, value in (("mean", mean), ("spread", spread)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        self.reads = nn.Parameter(torch.randn(d, rank, generator=generator) / d**0.5)
        self.offset = nn.Parameter(torch.zeros(rank))
        self.writes = nn.Parameter(torch.zeros(rank, d))
        self.gates = nn.Parameter(torch.tensor(np.stack(gates, 1), dtype=torch.float32))
        self.limits = nn.Parameter(torch.tensor(limits, dtype=torch.float32))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """The stream `[b, s, d]`, edited."""
        z = (h.float() - self.mean) / self.spread
        room = self.limits - z @ self.gates
        soft = torch.sigmoid(room / SOFT).prod(-1, keepdim=True)
        opened = (room > 0).all(-1, keepdim=True).float() + soft - soft.detach()
        return h + (opened * ((z @ self.reads + self.offset) @ self.writes) * self.spread).to(h.dtype)

    @torch.no_grad()
    def bounds(self) -> Bounds:
        """The same as ranges of one number each, on the raw stream; rounded as a bundled hold is."""
        reads, writes = (self.reads / self.spread[:, None]).T, self.writes * self.spread
        target = self.offset - (self.mean / self.spread) @ self.reads
        gates = (self.gates / self.spread[:, None]).T
        limits = self.limits + (self.mean / self.spread) @ self.gates
        # Rows whose largest number is 1 lose the least to rounding.
        size, wide = (x.abs().amax(1).clamp(min=1e-30) for x in (reads, gates))
        return Bounds(
            rounded(-reads / size[:, None]), rounded(writes * size[:, None]), target / size, target / size,
            rounded(gates / wide[:, None]), limits / wide,
        )  # fmt: skip


class Sites(nn.Module):
    """All layers' sites: an intervention that gradients pass through."""

    tokens: Tokens = "all"

    def __init__(self, sites: Mapping[int, Site]) -> None:
        super().__init__()
        self.at = nn.ModuleDict({str(k): site for k, site in sites.items()})
        self._layers = tuple(sorted(sites))

    @property
    def layers(self) -> tuple[int, ...]:
        return self._layers

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        new: torch.Tensor = self.at[str(layer)](h)
        return new

    def parts(self) -> dict[int, Bounds]:
        return {k: site.bounds() for k in self.layers if isinstance(site := self.at[str(k)], Site)}


def learn(
    model: Model, states: States, lessons: Lessons, ordinary: Sequence[Conversation], opened: float, longest: int,
    seed: int, show: Progress,
) -> dict[int, Bounds]:  # fmt: skip
    """Gates and maps at the layers of `states`.

    Args:
        states: what gates begin from.
        ordinary: conversations in which nothing should change, up to `longest` tokens of each.
        opened: share of ordinary tokens, and of the model's own, at which each gate is open at first.
    """
    course, rng = lessons.course, np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    sites = Sites({k: Site(states.at(k), course.rank, opened, generator) for k in states.layers}).to(model.device)
    quiet = [ids for c in ordinary if len(ids := model.chat.spanned(c).ids[:longest]) > 1]
    slow = [p for name, p in sites.named_parameters() if name.endswith(("gates", "limits"))]
    fast = [p for name, p in sites.named_parameters() if not name.endswith(("gates", "limits"))]
    groups = [{"params": fast, "lr": RATE}, {"params": slow, "lr": GATE_RATE}]
    descent = torch.optim.Adam(groups, betas=(0.9, 0.95))
    steps = course.steps * (course.rounds + 1)
    pace = torch.optim.lr_scheduler.LambdaLR(descent, lambda n: min(1.0, (n + 1) / 10) * (1 - 0.9 * n / steps))
    for turn in range(course.rounds + 1):
        if turn:
            lessons.write(CapSpace(sites.parts(), model.info.id, model.info.fingerprint), turn, rng)
        show.begin("learning a hold", steps)
        with frozen(model.net):
            for step in range(course.steps):
                drawn = lessons.draw(course.rows, rng)
                rows = [quiet[i] for i in rng.integers(0, len(quiet), course.quiet)]
                attacked = _under_attack(model, sites, drawn)
                loss = attacked + QUIET * _in_quiet(model, sites, rows, course.columns, rng)
                descent.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_([*fast, *slow], 1.0)
                descent.step()
                pace.step()
                show.advance(turn * course.steps + step + 1)
    return sites.parts()


def _under_attack(model: Model, sites: Sites, lessons: Sequence[Lesson]) -> torch.Tensor:
    """Mean divergence of the held model under attack from the plain one without it, nats a token of the answers."""
    sides = []
    for held in (False, True):
        prompts = [model.chat.prompt_ids(one.before if held else ask(one.question)) for one in lessons]
        rows = [prompt + one.answer for prompt, one in zip(prompts, lessons, strict=True)]
        spans = [range(len(p) - 1, len(row) - 1) for p, row in zip(prompts, rows, strict=True)]
        sides.append(_predictions(model, rows, spans, sites if held else None))
    return _divergence(*sides)


def _in_quiet(model: Model, sites: Sites, rows: Sequence[Ids], columns: int, rng: np.random.Generator) -> torch.Tensor:
    """The same on ordinary text, at some of its columns."""
    some = [sorted(rng.permutation(len(row))[:columns].tolist()) for row in rows]
    return _divergence(*(_predictions(model, rows, some, held) for held in (None, sites)))


def _predictions(
    model: Model, rows: Sequence[Ids], columns: Sequence[Sequence[int]], sites: Sites | None
) -> torch.Tensor:
    """Log-probabilities of what comes next, `[n, vocabulary]`: of the first row's columns, then of the second's."""
    # Padding on the right needs no mask: a causal model's real tokens never look at what follows them.
    ids = torch.full((len(rows), max(map(len, rows))), model.pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    asked = sorted({c for some in columns for c in some})
    place = {c: i for i, c in enumerate(asked)}
    keep = torch.tensor(asked, device=model.device)
    with torch.set_grad_enabled(sites is not None), edited(model.blocks, [(sites, None)] if sites else []):
        logits = model.net(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=keep).logits
    picked = torch.cat([logits[i, [place[c] for c in some]] for i, some in enumerate(columns)])
    return picked.float().log_softmax(-1)


def _divergence(plain: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Mean of `KL(plain || held)`, nats, of log-probabilities `[n, vocabulary]`."""
    return (plain.exp() * (plain - held)).sum(-1).mean()


def kept(path: Path, make: Callable[[], dict[int, Bounds]]) -> dict[int, Bounds]:
    """What was learnt before and lies in a file, or else what `make` learns now, which is put there."""
    from safetensors.torch import load_file, save

    if not path.is_file():
        made = make()
        write_atomic(path, save({f"{k}.{name}": getattr(part, name) for k, part in made.items() for name in TENSORS}))
    found = load_file(path)
    layers = sorted({int(name.split(".")[0]) for name in found})
    return {k: Bounds(*(found[f"{k}.{name}"] for name in TENSORS)) for k in layers}


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """While inside, no gradients are counted for the net's own weights."""
    wanted = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    net.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, own in wanted:
            parameter.requires_grad_(own)
