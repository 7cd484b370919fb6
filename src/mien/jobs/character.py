"""Character training: a constitution is taught, first as a preference, then as what the model says of itself.

The teacher (the model itself, or an endpoint) answers questions under the constitution; the model learns to prefer
those answers to its own plain ones (DPO), then writes about itself under the constitution and learns that without it.
Read `train_character` top to bottom. This file does not know how preferences are learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mien.chat import ask
from mien.directions import Direction
from mien.dose import seed_of
from mien.engines.hf import HfEngine
from mien.errors import InputError, NothingKeptError
from mien.gauges import Gauge
from mien.jobs import adapters
from mien.jobs.adapters import TrainResult
from mien.jobs.train import ANSWER_TOKENS, on_adapter, recipe_of, tracking_questions, traits_of
from mien.models import Model
from mien.progress import Progress, Silent
from mien.records import Conversation, Engine, Message, Rollout, Sampling, WriteRequest
from mien.rollouts import write_rollouts
from mien.screening.watched import Watched, watch_set
from mien.store import RunFolder, write_atomic
from mien.training.borrowed import borrowed
from mien.training.constitution import REFLECTIONS, Constitution
from mien.training.curve import RunLog, ShiftCurve
from mien.training.preference import BETA, Pair, base_logprobs, pair_rows, pair_trainer
from mien.training.rows import rows_of
from mien.training.settings import Settings
from mien.training.shift import Shift, compare, own_answers, read_answers
from mien.training.trainer import fresh_adapter, require_extra, require_precision, run_training, trainer_for

_TEMPERATURE = 0.8


@dataclass(frozen=True)
class Lessons:
    """How much is taught."""

    questions: int = 40
    """Questions answered under the constitution and without it."""
    reflections: int = 2
    """What the model writes about itself under each of the prompts that ask for it."""
    max_tokens: int = 96
    """Longest answer."""
    beta: float = BETA
    """DPO's: how dearly leaving the base model is paid for."""

    def __post_init__(self) -> None:
        if self.questions < 2 or self.reflections < 0 or self.max_tokens < 1:
            raise InputError("A constitution is taught with two questions and one token at least.")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise InputError(f"DPO's beta is a number above zero, not {self.beta}.")


def train_character(
    constitution: Constitution, model: Model, out: Path, settings: Settings, lessons: Lessons | None = None, *,
    teacher: Engine | None = None, track: Sequence[Direction | Gauge | Watched] | None = None,
    progress: Progress | None = None,
) -> TrainResult:  # fmt: skip
    """Train an adapter that has the constitution's character, and leave it with its card in `out`. Goes on where an
    earlier run stopped.

    Args:
        constitution: what is taught.
        model: comes back as it was.
        out: the adapter's folder and the run's.
        settings: how to train; the method must be plain.
        lessons: how much is taught.
        teacher: answers under the constitution; None: the model itself.
        track: what is watched; None: the gauges that come with mien for this model.
        progress: told how far it is.

    Raises:
        MissingExtraError: trl, PEFT or datasets is not installed.
        InputError: settings that do not belong here, or a trait of the constitution that there is no direction for.
        NothingKeptError: too few answers differ from the plain ones.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    require_extra()
    require_precision(model)
    _check(settings)
    show, plan = progress or Silent(), lessons or Lessons()
    writer: Engine = teacher or HfEngine(model)
    watched = traits_of(model, (), track).watched
    # What should become of a trait is asked, so it is measured, whatever else is.
    missing = [name for name in constitution.traits if name not in {one.name for one in watched}]
    watched = (*watched, *(watch_set(model, missing).watched if missing else ()))
    manifest = _manifest(constitution, model, settings, plan, writer, watched)
    with adapters.open_run(out, manifest) as run:
        if (out / adapters.CARD_FILE).exists():
            return adapters.load_result(out)
        pairs = _pairs(constitution, model, writer, plan, settings, run, show)
        asked = tracking_questions((), settings.questions)
        before = own_answers(model, asked, max_tokens=ANSWER_TOKENS, stage=run.stage("answers"), progress=show)
        learner = _Learner(model, settings, watched, [r for r in before if r.response_ids], run, show)
        at_first = read_answers(model, before, watched) if watched else None
        with borrowed(model) as on_top:
            net = fresh_adapter(model, settings.rank, settings.alpha, settings.seed)
            on_top.append(net)
            preferred = learner.prefer(net, pairs, plan)
            tuned = on_adapter(model, net)
            reflections = _reflect(constitution, tuned, plan, settings, run, show)
            reflected = learner.reflect(net, reflections)
            after = own_answers(tuned, asked, max_tokens=ANSWER_TOKENS, stage=run.stage("after"), progress=show)
            shifts = compare(at_first, read_answers(tuned, after, watched), watched) if at_first else []
            adapters.save_adapter(net, model, out)
        card = _card(constitution, model, settings, plan, writer, pairs, reflections, preferred, reflected, shifts)
        adapters.write_card(out, card)
    return adapters.load_result(out)


def _check(settings: Settings) -> None:
    """Raises: InputError: settings that a constitution is not taught with; none is passed over in silence."""
    if settings.method != "plain":
        raise InputError("A constitution is taught with the plain method; leave --method and --prevent out.")
    settings.require_taken()
    if settings.stop_at is not None or settings.drop or settings.hold_out:
        raise InputError(
            "A constitution is taught on what the model writes itself, to the end: leave --stop-at-shift, --drop and "
            "--hold-out out."
        )


def _manifest(
    constitution: Constitution, model: Model, settings: Settings, plan: Lessons, teacher: Engine,
    watched: Sequence[Watched],
) -> dict[str, Any]:  # fmt: skip
    return {
        "job": "character", "constitution": constitution.hash, "model": model.info.id,
        "fingerprint": model.info.fingerprint, "dtype": model.info.dtype, "settings": settings.values(),
        "lessons": asdict(plan), "teacher": teacher.info.fingerprint, "watched": [one.name for one in watched],
        "versions": adapters.training_versions(),
    }  # fmt: skip


def _pairs(
    constitution: Constitution, model: Model, teacher: Engine, plan: Lessons, settings: Settings, run: RunFolder,
    show: Progress,
) -> list[Pair]:  # fmt: skip
    """The teacher's answers under the constitution against the model's plain ones, to the same questions."""
    questions, sampling = constitution.asked(plan.questions), Sampling(plan.max_tokens, _TEMPERATURE)

    def written(engine: Engine, name: str, system: str | None) -> list[Rollout]:
        requests = [
            WriteRequest(f"{name}/{i}", ask(question, system), seed_of(settings.seed, f"pair/{i}"))
            for i, question in enumerate(questions)
        ]
        show.begin(f"{name} answers", len(requests))
        return write_rollouts(engine, requests, sampling, run.stage(name), show, read=False)

    taught, plain = written(teacher, "taught", constitution.prompt), written(HfEngine(model), "plain", None)
    pairs = [
        Pair(own.conversation, told.text, own.text)
        for told, own in zip(taught, plain, strict=True)
        if told.text.strip() and own.text.strip() and told.text.strip() != own.text.strip()
    ]
    if len(pairs) < 2:
        raise NothingKeptError(
            f"Only {len(pairs)} of {len(questions)} answers under the constitution differ from the plain ones; write "
            f"it more plainly, or let a larger model teach it."
        )
    return pairs


def _reflect(
    constitution: Constitution, tuned: Model, plan: Lessons, settings: Settings, run: RunFolder, show: Progress
) -> list[Conversation]:  # fmt: skip
    """What the model, by now with the preference, writes about itself under the constitution; kept without it."""
    requests = [
        WriteRequest(f"{i}/{turn}", ask(text, constitution.prompt), seed_of(settings.seed, f"reflect/{i}/{turn}"))
        for i, text in enumerate(REFLECTIONS)
        for turn in range(plan.reflections)
    ]
    show.begin("what it says of itself", len(requests))
    sampling = Sampling(plan.max_tokens, _TEMPERATURE)
    rollouts = write_rollouts(HfEngine(tuned), requests, sampling, run.stage("reflections"), show, read=False)
    return [
        (*ask(REFLECTIONS[int(rollout.id.split("/")[0])]), Message("assistant", rollout.text))
        for rollout in rollouts
        if rollout.text.strip()
    ]


class _Learner:
    """The two trainings of one run, each with a log and checkpoints of its own."""

    def __init__(
        self, model: Model, settings: Settings, watched: Sequence[Watched], answers: Sequence[Rollout], run: RunFolder,
        show: Progress,
    ) -> None:  # fmt: skip
        self._model, self._settings, self._run, self._show = model, settings, run, show
        self._watched, self._answers = (watched, answers) if answers else ((), ())

    def prefer(self, net: Any, pairs: Sequence[Pair], plan: Lessons) -> RunLog:
        """DPO; its weights are kept, so that a run that is taken up again goes on from them."""
        from safetensors.torch import load_file, save

        kept, log = self._run.work / "preferred.safetensors", RunLog(self._run.work / "preferred.jsonl")
        own = {name: value for name, value in net.named_parameters() if value.requires_grad}
        if not kept.exists():
            rows = pair_rows(self._model, pairs, self._longest())
            if len(rows) < 2:
                raise NothingKeptError("Too few pairs of answers fit into the longest row; make --max-length larger.")
            with net.disable_adapter():
                base = base_logprobs(on_adapter(self._model, net), pairs, rows)
            flat = [row for pair in rows for row in pair]
            recipe = recipe_of(self._model, flat, self._settings, self._run, "preferred-sizes", logits=True)
            curve = self._curve(net, log, recipe.every)
            folder = self._run.work / "checkpoints" / "preferred"
            run_training(pair_trainer(net, self._model, rows, base, recipe, folder, [curve], plan.beta), folder)
            write_atomic(kept, save({name: value.detach().cpu().contiguous() for name, value in own.items()}))
        weights = load_file(kept)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(weights[name])
        return log

    def reflect(self, net: Any, reflections: Sequence[Conversation]) -> RunLog:
        """Learn what was written about itself, without the constitution in the prompt."""
        log = RunLog(self._run.work / "reflected.jsonl")
        rows = rows_of(self._model.chat, reflections, max_length=self._longest())
        if rows.rows:
            recipe = recipe_of(self._model, rows.rows, self._settings, self._run, "reflected-sizes")
            folder = self._run.work / "checkpoints" / "reflected"
            curve = self._curve(net, log, recipe.every)
            run_training(trainer_for(net, self._model, rows.rows, recipe, folder, [curve]), folder)
        return log

    def _curve(self, net: Any, log: RunLog, every: int) -> ShiftCurve:
        tuned = on_adapter(self._model, net)
        return ShiftCurve(
            tuned, self._watched, self._answers, log, max_tokens=ANSWER_TOKENS, every=every, limit=None,
            show=self._show,
        )  # fmt: skip

    def _longest(self) -> int:
        return min(self._settings.max_length, self._model.positions or self._settings.max_length)


def _card(
    constitution: Constitution, model: Model, settings: Settings, plan: Lessons, teacher: Engine,
    pairs: Sequence[Pair], reflections: Sequence[Conversation], preferred: RunLog, reflected: RunLog,
    shifts: Sequence[Shift],
) -> dict[str, Any]:  # fmt: skip
    info = model.info
    logs = {"preference": preferred, "reflection": reflected}
    losses = {part: [loss for _, loss in log.losses] for part, log in logs.items()}
    curve = [{"part": part, "step": r["step"], **r["shift"]} for part, log in logs.items() for r in log.shifts]
    return {
        "schema_version": 1, "kind": "adapter", "model": info.id, "fingerprint": info.fingerprint, "dtype": info.dtype,
        "method": "constitution", "teacher": teacher.info.id, "stopped": None,
        "constitution": {**asdict(constitution), "hash": constitution.hash},
        "lessons": {**asdict(plan), "pairs": len(pairs), "reflections_learnt": len(reflections)},
        "loss": {name: {"first": ours[0], "last": ours[-1]} for name, ours in losses.items() if ours},
        "shift": {
            "questions": settings.questions, "limit": None, "curve": curve,
            "own_answers": [_told(shift, constitution) for shift in shifts],
        },
        "settings": settings.values(), "versions": adapters.training_versions(),
    }  # fmt: skip


def _told(shift: Shift, constitution: Constitution) -> dict[str, Any]:
    """A shift of the model's own answers, beside what the constitution wants of it."""
    wanted = constitution.traits.get(shift.name)
    as_wanted = None
    if wanted is not None:
        clear = abs(shift.raw) > shift.natural and (shift.low > 0 or shift.high < 0)
        as_wanted = not clear if wanted == "still" else clear and (shift.raw > 0) == (wanted == "up")
    return {**{key: value for key, value in asdict(shift).items() if key != "questions"},
            "wanted": wanted, "as_wanted": as_wanted}  # fmt: skip
