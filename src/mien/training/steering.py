"""Preventative steering that is corrected on the way: what the answers do all the same is put against them.

This file does not know how shifts are measured, nor the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence

from mien.interventions import Add
from mien.progress import Progress
from mien.training.curve import Point
from mien.training.prevent import PreventShift
from mien.training.strength import Strength, Target, corrected


class Steering:
    """Steering along several targets, corrected by what the answers do meanwhile."""

    def __init__(self, targets: Sequence[Target], strengths: Sequence[Strength], show: Progress) -> None:
        self.targets, self._show = tuple(targets), show
        self._coefs = [strength.coef for strength in strengths]
        self.history: list[tuple[int, list[float]]] = [(0, self._coefs)]
        """From which step on each strength held."""
        self.prevent = PreventShift([
            Add(target.direction, target.sign * coef, at=target.layers)
            for target, coef in zip(targets, self._coefs, strict=True)
        ])  # fmt: skip

    def follow(self, step: int, point: Point) -> None:
        """Correct the strengths by a measurement at the directions' recommended layers."""
        moved = []
        for target in self.targets:
            raw, card = point[target.direction.card.name]["raw"] or 0.0, target.direction.card
            measured = float(target.direction.norms()[card.recommended_layer or target.deepest])
            moved.append(raw / measured * target.length)
        if not step or not any(moved):
            return
        self._coefs = corrected(self.targets, self._coefs, moved)
        self.history.append((step, self._coefs))
        self.prevent.set_coefs([t.sign * coef for t, coef in zip(self.targets, self._coefs, strict=True)])
        names = (target.direction.card.name for target in self.targets)
        self._show.note("coefs now: " + ", ".join(f"{n} {c:.2f}" for n, c in zip(names, self._coefs, strict=True)))
