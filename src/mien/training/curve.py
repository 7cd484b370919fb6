"""The loss and the character while a model is trained: a callback that measures, writes down, and may stop.

Measured are the model's own short answers to a few questions under the weights as they are, unsteered, against the
untrained model's: the fine-tuning shift. Beside it stands how far the untrained model's answers, the same text, have
moved under the new weights: less noisy, and much smaller, since most of a shift is in what is written. This file does
not know how the model is trained, nor what is done with what was written down.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from mien.errors import InputError, NonFiniteError
from mien.models import Model
from mien.progress import Progress
from mien.records import Rollout
from mien.screening.watched import Watched
from mien.store import disk_errors, write_atomic
from mien.training.borrowed import still
from mien.training.shift import Read, own_answers, read_answers

Record = dict[str, Any]
Point = dict[str, dict[str, float | None]]
"""For each name `raw` and `sigma` of own answers, `text_raw` and `text_sigma` of the fixed text."""


class RunLog:
    """What happened at each step, a JSON line each; after a sudden end, lines later than the last checkpoint go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: list[Record] = []
        if path.exists():
            with disk_errors(path):
                lines = path.read_bytes().splitlines(keepends=True)
            for line in lines:
                try:
                    self.records.append(json.loads(line))
                except ValueError:  # the last line of a process that was killed
                    break

    def rewind(self, step: int) -> None:
        """Forget what came after a step.

        Raises:
            RunError: the disk refuses.
        """
        self.records = [record for record in self.records if record["step"] <= step]
        write_atomic(self._path, "".join(_line(record) for record in self.records))

    def add(self, record: Record) -> None:
        """Write one more.

        Raises:
            RunError: the disk refuses.
        """
        self.records.append(record)
        with disk_errors(self._path), self._path.open("ab") as file:
            file.write(_line(record).encode())
            file.flush()
            os.fsync(file.fileno())

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Step and loss."""
        return [(record["step"], record["loss"]) for record in self.records if "loss" in record]

    @property
    def shifts(self) -> list[Record]:
        """Step, and for each name `raw` and `sigma`."""
        return [record for record in self.records if "shift" in record]


def _line(record: Record) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Limit:
    """How far a shift may go towards the alarming side."""

    value: float
    in_sigma: bool

    @classmethod
    def parse(cls, text: str) -> Limit:
        """`1s` is a sigma of the baseline, `0.8` are raw units.

        Raises:
            InputError: it is neither, or not above zero.
        """
        number = text.strip().lower()
        in_sigma = number.endswith("s")
        try:
            value = float(number.removesuffix("s"))
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"A shift to stop at is a number above zero, as 1s (sigma) or 0.8 (raw), not {text!r}.")
        return cls(value, in_sigma)

    def check(self, watched: Sequence[Watched]) -> None:
        """Raises: InputError: nothing is watched, or something whose sigma is not known."""
        if not watched:
            raise InputError("Nothing is watched, so there is no shift to stop at; name traits with --track.")
        lacking = [one.name for one in watched if self.in_sigma and not one.std]
        if lacking:
            raise InputError(
                f"{lacking[0]} has no baseline, so its sigma is not known; give the shift to stop at in raw units, "
                f"without s, or do not track it."
            )

    def passed(self, watched: Sequence[Watched], shift: Point) -> list[str]:
        """Names of what has passed it."""
        key = "sigma" if self.in_sigma else "raw"
        return [one.name for one in watched if one.sign * (shift[one.name][key] or 0.0) >= self.value]


class ShiftCurve(TrainerCallback):
    """Measures answers every few steps and stops training when they have moved too far.

    Args:
        model: what is trained, a PEFT model on its base.
        watched: what is measured.
        answers: the untrained model's own, one a question; measured are the same questions, asked again.
        max_tokens: longest answer.
        log: where it is written down.
        every: steps from one measurement to the next.
        limit: shift at which training stops; None: it does not.
        show: told how far training is.
        follow: told of each measurement, those that an earlier run made too.
        keep: file for the weights last measured within the limit, so that a run that is taken up again has them.
    """

    def __init__(
        self, model: Model, watched: Sequence[Watched], answers: Sequence[Rollout], log: RunLog, *, max_tokens: int,
        every: int, limit: Limit | None, show: Progress, follow: Callable[[int, Point], None] | None = None,
        keep: Path | None = None,
    ) -> None:  # fmt: skip
        self._model, self._watched, self._answers, self._log = model, watched, answers, log
        self._max_tokens, self._every, self._limit, self._show = max_tokens, every, limit, show
        self._follow, self._keep = follow, keep
        self._zero: Read | None = None
        self._tokens = 0
        self._loss = ""
        self.within: dict[str, torch.Tensor] | None = None
        """The trained weights when the shift was last measured to be within the limit."""
        if keep is not None and keep.exists():
            self.within = load_file(keep)
        self.stopped: str | None = None
        """Why training was stopped, in a sentence."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self._log.rewind(state.global_step)
        self._show.begin("training", state.max_steps)
        if state.global_step:
            self._show.advance(state.global_step)
        for record in self._log.shifts:
            self._tell(record["step"], record["shift"])
        self._measure(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._measure(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise NonFiniteError("The loss became NaN or infinite; try a smaller --lr, or --dtype float32.")
        keys = ("loss", "learning_rate", "grad_norm", "kl")
        kept: Record = {key: round(float(logs[key]), 6) for key in keys if key in logs}
        self._log.add({"step": state.global_step, **kept})
        self._loss = f"loss {logs['loss']:.3f}, "
        tokens = int(logs.get("num_tokens", 0))
        self._show.advance(state.global_step, max(0, tokens - self._tokens))
        self._tokens = tokens

    def _measure(self, state: Any, control: Any) -> None:
        if not self._watched:
            return
        step = state.global_step
        known = next((record["shift"] for record in self._log.shifts if record["step"] == step), None)
        shift = known if known is not None else self._shift()
        if known is None:
            self._log.add({"step": step, "shift": shift})
            self._show.note(
                f"step {step}: {self._loss}" + ", ".join(_words(name, value) for name, value in shift.items())
            )
            self._tell(step, shift)
        passed = self._limit.passed(self._watched, shift) if self._limit else []
        if passed:
            self.stopped = f"stopped at step {step}: {passed[0]} had moved by {_words('', shift[passed[0]]).strip()}"
            control.should_training_stop = True
        elif self._limit:
            trained: Any = self._model.net.named_parameters()
            self.within = {name: value.detach().clone() for name, value in trained if value.requires_grad}
            if self._keep is not None:
                write_atomic(self._keep, save({name: value.cpu() for name, value in self.within.items()}))

    def _tell(self, step: int, shift: Point) -> None:
        if self._follow is not None:
            self._follow(step, shift)

    def _shift(self) -> Point:
        net: Any = self._model.net
        questions = [rollout.conversation[-1].content for rollout in self._answers]
        with still(net):
            if self._zero is None:
                with net.disable_adapter():
                    self._zero = read_answers(self._model, self._answers, self._watched)
            text = read_answers(self._model, self._answers, self._watched)
            own = own_answers(self._model, questions, max_tokens=self._max_tokens)
            now = read_answers(self._model, own, self._watched)
        return {one.name: {**_moved(self._zero, now, one), **_moved(self._zero, text, one, "text_")}
                for one in self._watched}  # fmt: skip


def _moved(before: Read, after: Read, one: Watched, prefix: str = "") -> dict[str, float | None]:
    both = before.full & after.full
    raw = float((after.project(one) - before.project(one))[both].mean()) if both.any() else None
    sigma = raw / one.std if raw is not None and one.std else None
    found = {"raw": raw, "sigma": sigma}
    return {f"{prefix}{key}": None if value is None else round(value, 5) for key, value in found.items()}


def _words(name: str, value: dict[str, float | None]) -> str:
    for unit in ("sigma", "raw"):
        if value[unit] is not None:
            return f"{name} {value[unit]:+.2f} {unit}"
    return f"{name} gives empty answers"
