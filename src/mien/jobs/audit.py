"""A tuned model against its base: has its character moved? Read `audit` top to bottom.

This file does not know how anything is measured or judged, or what the page looks like.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.auditing.behaviour import by_api, by_likelihood
from mien.auditing.change import change_of
from mien.auditing.findings import as_json, put_together
from mien.auditing.names import named_vectors, names_of
from mien.auditing.report import report_of
from mien.auditing.side import (
    AuditPlan,
    Side,
    kept_array,
    measure_side,
    plan_digest,
    probes_of,
    read_all,
)
from mien.auditing.thresholds import NONE, Thresholds
from mien.engines.hf import HfEngine
from mien.errors import InputError, RunError
from mien.jobs.extract import check_draws, versions
from mien.machine import cache_dir
from mien.models import Model, load, weights_digest
from mien.progress import Progress, Silent
from mien.records import Judge
from mien.report.audit_page import write_audit_page
from mien.screening.watched import Watched, WatchSet, watch_set
from mien.store import RunFolder, canonical, write_atomic
from mien.training.borrowed import adapted
from mien.training.shift import Read, compare

_SAMPLE = "A small text, with 12 words: how it is tokenised tells vocabularies apart."


def audit(
    base: Model,
    tuned: Model | str | Path,
    out: Path,
    *,
    traits: Sequence[str] | None = None,
    thresholds: Thresholds = NONE,
    judge: Judge | None = None,
    plan: AuditPlan | None = None,
    made: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a tuned model with its base; `out` gets `audit.json` and `audit.html`; returns what the first says.

    The same call goes on where an earlier one stopped. What is measured of the base is kept in the cache, so that a
    second audit of the same base costs half.

    Args:
        tuned: a model, a model's folder or id, or the folder of a PEFT adapter for `base`.
        traits: kept directions of `base`, folders of them, or bundled gauges; None: all there are.
        thresholds: what must not be passed.
        judge: an `ApiJudge` for `behaviour.RUBRIC`; None: the base model judges by likelihood.
        made: when the page was made, in words.

    Raises:
        InputError: no directions, thresholds that cannot be tried, or models that cannot be compared.
        ModelError: the tuned model cannot be loaded.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    plan, show = plan or AuditPlan(), progress or Silent()
    _check_plan(plan)
    which = watch_set(base, traits)
    thresholds.check_names([one.name for one in which.watched], "api" if judge else "likelihood")
    other = tuned if isinstance(tuned, Model) or _is_adapter(tuned) else _loaded(base, tuned)
    before = weights_digest(base)
    with _on(base, other) as model:  # what cannot be compared is refused before anything is measured
        _check_alike(base, model)
        manifest, name = _manifest(base, model, plan, before, weights_digest(model)), model.info.id
    with RunFolder(out, manifest) as run:
        side, texts, vectors = _base_side(base, plan, before, out, show)
        rollouts = [*side.own, *side.probes]
        with _on(base, other) as model:
            mine = measure_side(model, plan, run, show)
            changed = kept_array(run.work / "texts.npy", lambda: _reread(model, side, show))
        shifts = compare(side.read, mine.read, _with_sigma(which, side.read), seed=plan.seed)
        judged = (
            by_api(judge, side.probes, mine.probes, run, show) if judge
            else by_likelihood(HfEngine(base), side.probes, mine.probes, side.own, plan.seed, show)
        )  # fmt: skip
        there = np.array([bool(r.response_ids) for r in rollouts])
        change = change_of(texts[there], changed[there], names_of(plan.roles), vectors, plan.seed)
        found = put_together(side, mine, shifts, judged, change, thresholds, probes_of(plan), plan.seed)
        result = {
            "base": base.info.id, "tuned": name, "fingerprint": base.info.fingerprint, **as_json(found),
            "thresholds": {**thresholds.limits, "traits": dict(thresholds.traits)}, "settings": asdict(plan),
            "notes": list(which.notes), "versions": versions(), "page": str(out / "audit.html"),
        }  # fmt: skip
        write_audit_page(report_of(found, which, base.info.id, name, made), out)
        write_atomic(out / "audit.json", canonical(result))
        return result


def _check_plan(plan: AuditPlan) -> None:
    check_draws(plan.seed, plan.temperature)
    least = min(plan.questions, plan.max_tokens, plan.probes, plan.probe_tokens, plan.requests, plan.tasks)
    if least < 2 or plan.roles < 3 or plan.name_texts < 1:
        raise InputError(
            "An audit needs at least two of everything that is asked, and three roles to name a change by."
        )


def _is_adapter(tuned: str | Path) -> bool:
    return (Path(tuned) / "adapter_config.json").is_file()


def _loaded(base: Model, tuned: str | Path) -> Model:
    return load(tuned, device=base.info.device, dtype=base.info.dtype)


@contextlib.contextmanager
def _on(base: Model, tuned: Model | str | Path) -> Iterator[Model]:
    """The tuned model. An adapter is put on the base model for the while, which is then not itself."""
    if isinstance(tuned, Model):
        yield tuned
        return
    with adapted(base, tuned) as model:
        yield model


def _check_alike(base: Model, tuned: Model) -> None:
    """Raises: InputError: the two cannot be compared activation by activation, text by text."""
    shapes = [(m.n_layers, m.info.d_model) for m in (base, tuned)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{tuned.info.id} has {shapes[1][0]} layers of {shapes[1][1]} and {base.info.id} has {shapes[0][0]} of "
            f"{shapes[0][1]}, so it was not tuned from it; give the model that it was tuned from as base."
        )
    if base.chat.plain_ids(_SAMPLE) != tuned.chat.plain_ids(_SAMPLE):
        raise InputError(
            f"{tuned.info.id} and {base.info.id} turn text into different tokens, so they cannot be compared; give the "
            f"model that it was tuned from as base."
        )


def _manifest(base: Model, tuned: Model, plan: AuditPlan, before: str, after: str) -> dict[str, object]:
    return {
        "job": "audit", "base": base.info.id, "base_weights": before, "tuned": tuned.info.id, "tuned_weights": after,
        "dtype": base.info.dtype, "plan": plan_digest(plan), "versions": versions(),
    }  # fmt: skip


def _base_side(
    base: Model, plan: AuditPlan, digest: str, out: Path, show: Progress
) -> tuple[Side, NDArray[np.float32], NDArray[np.float32]]:
    """The base model measured, its answers read `[t, l, d]`, and directions that changes may be named by `[n, l, d]`;
    from the cache, if an earlier audit has been here.
    """
    manifest = {
        "job": "audit base", "weights": digest, "dtype": base.info.dtype, "plan": plan_digest(plan),
        "versions": versions(),
    }  # fmt: skip
    name = hashlib.sha256(canonical(manifest).encode()).hexdigest()[:24]
    with contextlib.ExitStack() as stack:
        try:
            run = stack.enter_context(RunFolder(cache_dir() / "audit" / name, manifest))
        except RunError:  # another audit is at it, or the cache cannot be written
            run = stack.enter_context(RunFolder(out / "base", manifest))
        side = measure_side(base, plan, run, show)
        probes = kept_array(
            run.work / "probes.npy", lambda: read_all(base, side.probes, "reading its answers to open questions", show)
        )
        vectors = kept_array(
            run.work / "names.npy", lambda: named_vectors(base, side.own, plan.roles, plan.name_texts, show)
        )
    return side, np.concatenate([side.read.means, probes]), vectors


def _reread(model: Model, side: Side, show: Progress) -> NDArray[np.float32]:
    """`[t, l, d]`: the base model's answers as the tuned one reads them, in the batches in which the base read them, so
    that nothing but the weights differs.
    """
    parts = ((side.own, "answers"), (side.probes, "answers to open questions"))
    return np.concatenate(
        [read_all(model, some, f"reading the base model's {what} with the tuned one", show) for some, what in parts]
    )


def _with_sigma(which: WatchSet, base: Read) -> list[Watched]:
    """What is watched; where there is no baseline, sigma is the spread of the base model's own answers."""
    found = []
    for one in which.watched:
        spread = float(base.project(one)[base.full].std(ddof=1)) if one.std is None and base.full.sum() > 2 else 0.0
        found.append(replace(one, std=spread, baseline="the base model's answers") if spread > 0 else one)
    return found
