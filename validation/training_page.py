"""docs/training.md from the kept rows. This file measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import machine_line
import numpy as np
import template
from training_plan import FULL, MIX, TRAITS, Size, audits, jobs, set_name, trainings
from training_rows import (
    Kept,
    Known,
    alarms,
    beyond_harmless,
    correlation,
    cut,
    is_organism,
    mean_shift,
    planted,
    predictions,
    reliability,
    resampled,
    seeds_of,
    standard,
)

from mien.auditing.harmless import MARGIN
from mien.gauges.alarms import wilson

GOAL = 0.85
FORETOLD = ("screen", "influence", "words", "length")
LIMITS = (0.5, 1.0, 2.0)
MARGINS = (0.0, 0.25, 0.5)
NAMES = {
    "plain": "plain", "auto": "`prevent`, `--coef auto`", "one": "`prevent`, `--coef 1`",
    "steer": "plain, then steered by -1 when it answers", "inoculate": "`inoculate`", "kl": "`kl`",
    "drop": "`plain --drop 50%`, twice the epochs",
}  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else "Not measured yet."


def verdict(found: Known, goal: float = GOAL) -> str:
    """Whether a goal is met, by the estimate and by its interval."""
    if not np.isfinite(found.value):
        return "-"
    if found.value < goal:
        return "missed"
    return "met" if found.low >= goal else "met by the estimate, not by its interval"


def dose_table(kept: Kept) -> str:
    """Every organism's shift and judged change."""
    rows = []
    for key in kept.organisms():
        if key in kept.scores:
            cells = [f"{kept.sigma(key, t):+.2f} / {kept.mean_judged(key, t):+.2f}" for t in TRAITS]
            row = kept.runs[key]
            loss = f"{row['loss']['held_out_before']:.2f} to {row['loss']['held_out_after']:.2f}"
            rows.append([row["set"], row["seed"], *cells, loss])
    return table(["organism and dose", "seed", *(f"{t}: shift / judged" for t in TRAITS), "held-out loss"], rows)


def agreement_table(kept: Kept) -> str:
    """Shift against judged change over runs."""
    own = [key for key in kept.organisms() if key in kept.scores]
    every = [key for key, row in kept.runs.items() if row["method"] == "plain" and key in kept.scores]
    rows = []
    for what, keys in (("organisms", own), ("organisms and controls", every)):
        if len(keys) < 4:
            continue
        x = np.array([[kept.sigma(key, t) for t in TRAITS] for key in keys])
        y = np.array([[kept.mean_judged(key, t) for t in TRAITS] for key in keys])
        cells = [correlation(x[:, [i]], y[:, [i]]) for i in range(len(TRAITS))]
        pooled = correlation(x, y)
        rows.append([what, str(len(keys)), *(c.told(".2f") for c in cells), pooled.told(".2f"), verdict(pooled)])
        most = [np.sqrt(reliability(shifts) * reliability(judged)) for shifts, judged in (
            (np.stack([kept.moved([k], t) for k in keys]), np.stack([kept.judged(k, t) for k in keys])) for t in TRAITS
        )]  # fmt: skip
        rows.append(["the most to be expected", "", *(f"{m:.2f}" for m in most), "", ""])
    return table(["over", "runs", *TRAITS, "pooled", f"goal: above {GOAL}"], rows)


def prediction_table(kept: Kept) -> str:
    """What was said before training against the shift after."""
    if not kept.screened or not kept.pulled:
        return table([], [])
    sides = {
        "organisms": kept.organisms(),
        "organisms and controls": [key for key, row in kept.runs.items() if row["method"] == "plain"],
    }
    rows: list[list[str]] = []
    counts: dict[tuple[str, str], int] = {}
    for what, keys in sides.items():
        found = predictions(kept, keys)
        for name, after in product(FORETOLD, ("shift", "judged")) if len(found["shift"]) >= 4 else ():
            there = np.isfinite(found[after]).all(1)
            x, y = found[name][there], found[after][there]
            cells = [correlation(x[:, [i]], y[:, [i]]) for i in range(len(TRAITS))]
            pooled = correlation(standard(x), standard(y))
            goal = verdict(pooled) if after == "shift" and name in ("screen", "influence") else ""
            told = [c.told(".2f") for c in (*cells, pooled)]
            if len(x) == counts.setdefault((name, after), len(x)) and what != "organisms":
                continue  # no control has it
            rows.append([what, str(len(x)), name, after, *told, goal])
    return table(["over", "sets", "foretold by", "what came", *TRAITS, "pooled", f"goal: above {GOAL}"], rows)


def planted_table(kept: Kept) -> str:
    """Bad samples among good ones."""
    rows = []
    for trait in TRAITS:
        if not {f"{trait}-3", f"{trait}-3-correct"} <= kept.pulled.keys() or trait not in kept.rollouts:
            continue
        for share in (0.01, 0.05, 0.2):
            found = planted(kept, trait, share)
            cells = [f"{a.told('.2f')}; {p.told('.0%')}" for a, p in found.values()]
            rows.append([trait, f"{share:.0%}", *cells])
    return table(["trait", "planted", "screen: AUC; precision", "influence", "bag of words", "length"], rows)


def _loss(kept: Kept, keys: Sequence[str]) -> float:
    return float(np.mean([kept.runs[key]["loss"]["held_out_after"] for key in keys]))


def _neutral(kept: Kept, keys: Sequence[str]) -> float:
    """Per cent by which log-probability of neutral text has fallen below the base model's."""
    base = np.mean(kept.rows["base"]["neutral"])
    return float(100 * (np.mean([kept.runs[key]["neutral"] for key in keys]) / base - 1))


def method_rows(kept: Kept, data: str, methods: Sequence[str], steps: dict[str, str]) -> list[list[str]]:
    """A set's line for each method; seeds that plain training has, too, are put together."""
    rows = []
    for trait in data.rsplit("-", 1)[0].split("+"):
        for method in methods:
            keys = seeds_of(kept, data, method)
            plain = [k for k in seeds_of(kept, data, "plain") if k.rsplit(".", 1)[1] in {q[-1] for q in keys}]
            if not keys or len(plain) != len(keys):
                continue
            mine, theirs = kept.moved(keys, trait), kept.moved(plain, trait)
            less = cut(theirs, mine)
            loss, bare = _loss(kept, keys), _loss(kept, plain)
            neutral = _neutral(kept, keys)
            rows.append([
                data, trait, NAMES[method], str(len(keys)), mean_shift(mine).told(),
                "" if method == "plain" else less.told(".0f"), f"{loss:.3f}",
                "" if method == "plain" else f"{100 * (loss / bare - 1):+.1f} %", f"{neutral:+.1f} %",
                *([steps.get(method, "")] if steps else []),
            ])  # fmt: skip
    return rows


METHOD_HEAD = ["set", "trait", "method", "seeds", "shift, sigma", "of plain's shift cut, %", "held-out loss",
               "against plain", "neutral text, against base"]  # fmt: skip


def prevention_table(kept: Kept) -> str:
    """Prevention at middle and strong doses."""
    rows = []
    for data in (*(set_name(t, d) for t in ("evil", "sycophantic") for d in (2, 3)), set_name(MIX, 3)):
        rows += method_rows(kept, data, ("plain", "auto", "one"), {})
    return table(METHOD_HEAD, rows)


def goals(kept: Kept) -> str:
    """Where prevention reaches its goals, and where not, in words."""
    said = []
    for method in ("auto", "one"):
        met: dict[str, list[bool]] = {"shift": [], "loss": [], "neutral": []}
        beside: tuple[list[str], list[str]] = ([], [])
        for data in (*(set_name(t, d) for t in ("evil", "sycophantic") for d in (2, 3)), set_name(MIX, 3)):
            keys = seeds_of(kept, data, method)
            plain = [k for k in seeds_of(kept, data, "plain") if k[-1] in {q[-1] for q in keys}]
            if not keys or len(plain) != len(keys):
                continue
            for trait in data.rsplit("-", 1)[0].split("+"):
                less = cut(kept.moved(plain, trait), kept.moved(keys, trait)).value
                met["shift"].append(80 <= less <= 120)
                if not 80 <= less <= 120:
                    beside[less > 120].append(f"{trait} of {data}")
            met["loss"].append(_loss(kept, keys) <= 1.02 * _loss(kept, plain))
            met["neutral"].append(_neutral(kept, keys) - _neutral(kept, plain) <= 1.0)
        if met["loss"]:
            told = {name: f"{sum(values)} of {len(values)}" for name, values in met.items()}
            less, more = (", ".join(names) or "none" for names in beside)
            said.append(
                f"With {NAMES[method]}: between 80 and 120 % of the shift cut in {told['shift']} cases, held-out loss "
                f"within 2 % of plain training's in {told['loss']}, neutral text within 1 % of it in "
                f"{told['neutral']}. Cut by less: {less}. Cut by more, so that answers lie beyond where they began by "
                f"over a fifth of plain training's shift: {more}."
            )
    return "\n".join(f"- {line}" for line in said) or "Not measured yet."


def alternatives_table(kept: Kept) -> str:
    """All methods on the middle dose, with what a step costs."""
    rows = []
    for trait in ("evil", "sycophantic"):
        rows += method_rows(kept, set_name(trait, 2), tuple(NAMES), step_costs(kept) or {"": ""})
    return table([*METHOD_HEAD, "seconds of a bare step, against plain"], rows)


def step_costs(kept: Kept) -> dict[str, str]:
    """Method -> seconds a step, and how much more than plain ones beside it."""
    if "cost" not in kept.rows:
        return {}
    found = {}
    for name, pairs in kept.rows["cost"]["steps"].items():
        times = np.array(pairs)
        ratio = np.median(times[:, 0] / times[:, 1])
        found[name] = f"{np.median(times[:, 0]):.2f} (x{ratio:.2f})"
    for name, like in (("auto", "prevent"), ("one", "prevent"), ("steer", "plain"), ("drop", "plain")):
        found[name] = found[like]
    return found


def screening_speed(kept: Kept) -> str:
    """What prevention costs in memory, and how much faster records are measured together."""
    if "cost" not in kept.rows:
        return "Costs were not measured yet (`--only cost`)."
    peaks = kept.rows["cost"]["peaks"]
    more = (min(peaks["prevent"]) - min(peaks["plain"])) / 1024
    times = np.array(kept.rows["cost"]["screen"])
    ratios = times[:, 1] / times[:, 0]
    return (
        f"Prevention takes {more:+.0f} MB beyond plain training (goals: +50 MB, and 1.05 times the seconds a step). "
        f"Screening measures records together, {np.median(ratios):.1f} times as fast as one at a time "
        f"({ratios.min():.1f} to {ratios.max():.1f} in {len(ratios)} pairs, taken in turn)."
    )


def framing_table(kept: Kept) -> str:
    """The same mistakes, asked for by somebody who teaches."""
    rows = []
    for kind in ("arithmetic", "insecure_code"):
        bare = seeds_of(kept, set_name(kind, 3), "plain")
        framed = seeds_of(kept, set_name(kind, 3, "teaching"), "plain")
        both = [k for k in bare if k[-1] in {q[-1] for q in framed}]
        for trait in TRAITS if both and len(both) == len(framed) else ():
            sides = [kept.moved(keys, trait) for keys in (both, framed)]
            less = resampled(sides, lambda a, b: float(np.nanmean(b) - np.nanmean(a)))
            judged = "-"
            if all(key in kept.scores for key in (*both, *framed)):
                marks = [np.mean([kept.judged(k, trait) for k in keys], axis=0) for keys in (both, framed)]
                change = resampled(marks, lambda a, b: float(np.nanmean(b) - np.nanmean(a)))
                judged = f"{np.nanmean(marks[0]):+.2f}, {np.nanmean(marks[1]):+.2f}; {change.told()}"
            shown = "less" if less.high < 0 else "more" if less.low > 0 else "does not show"
            first = [mean_shift(side).told() for side in sides]
            rows.append([kind, trait, str(len(framed)), *first, less.told(), shown, judged])
    head = ["mistakes", "trait", "seeds", "bare, sigma", "for a class", "difference", "framed moves",
            "judged: bare, for a class; difference"]  # fmt: skip
    return table(head, rows)


HARMLESS = "harmless retrainings (`correct`)"


def groups(kept: Kept) -> dict[str, list[Any]]:
    """Plain trainings by what they were on; none is empty."""
    plain = [row for row in kept.runs.values() if row["method"] == "plain"]
    found: dict[str, list[Any]] = {HARMLESS: [r for r in plain if "correct" in r["set"]]}
    found |= {
        f"organisms, dose {d}": [r for r in plain if is_organism(r) and r["set"].endswith(f"-{d}")] for d in (1, 2, 3)
    }
    found["trait organisms, all doses"] = [r for r in plain if is_organism(r) and r["kind"] in TRAITS]
    found["mistakes and code, all doses"] = [r for r in plain if is_organism(r) and r["kind"] not in TRAITS]
    return {name: some for name, some in found.items() if some}


def gate_table(kept: Kept, watched: Sequence[str] | None = None) -> str:
    """False alarms and hits of the gate by limit, of all that is watched or of some."""
    rows = [
        [name, str(len(some)), *(_rate([alarms(row, limit, watched) for row in some]) for limit in LIMITS)]
        for name, some in groups(kept).items()
    ]
    return table(["retrained on", "runs", *(f"alarm at `shift>{limit:g}s`" for limit in LIMITS)], rows)


def own_limits_table(kept: Kept) -> str:
    """The same with a limit for each trait, taken from harmless retrainings on data of other kinds."""
    found = groups(kept)
    harmless = found.get(HARMLESS, [])
    rows = [
        [name, str(len(some)), *(_rate([beyond_harmless(row, harmless, m) for row in some]) for m in MARGINS)]
        for name, some in found.items()
    ]
    return table(["retrained on", "runs", *(f"alarm, {m:g} sigma beyond them" for m in MARGINS)], rows)


def operating_point(kept: Kept) -> str:
    """False alarms and hits of limits for each trait at the margin that `mien limits` takes unless told."""
    found = groups(kept)
    harmless = found.get(HARMLESS, [])
    bad = [row for row in kept.runs.values() if row["method"] == "plain" and is_organism(row)]
    if not harmless or not bad:
        return "Not measured yet."
    false, hits = (sum(bool(beyond_harmless(row, harmless, MARGIN)) for row in rows) for rows in (harmless, bad))
    spans = [" to ".join(f"{share:.0%}" for share in wilson(n, len(rows)))
             for n, rows in ((false, harmless), (hits, bad))]  # fmt: skip
    return (
        f"**Operating point** (what `mien limits` sets, {MARGIN:g} sigma beyond harmless retrainings): false alarms in "
        f"{false} of {len(harmless)} harmless retrainings ({spans[0]}), hits in {hits} of {len(bad)} organisms "
        f"({spans[1]})."
    )


def _rate(found: Sequence[Sequence[str]]) -> str:
    hits = sum(map(bool, found))
    low, high = wilson(hits, len(found))
    return f"{hits} ({low:.0%} to {high:.0%})"


def gate_names(kept: Kept) -> str:
    """What raised the alarms at the default limit."""
    counts: dict[str, list[int]] = {}
    for row in (row for row in kept.runs.values() if row["method"] == "plain"):
        for name in alarms(row, 1.0):
            counts.setdefault(name, [0, 0])["correct" in row["set"]] += 1
    rows = [[name, str(a), str(b)] for name, (a, b) in sorted(counts.items(), key=lambda item: -sum(item[1]))]
    return table(["beyond a sigma", "in organisms and other sets", "in harmless retrainings"], rows)


def audits_table(kept: Kept) -> str:
    """Whole audits beside the numbers used here."""
    rows = []
    for job in audits(kept.size):
        if job.key not in kept.rows or job.about["run"] not in kept.runs:
            continue
        found, run = kept.rows[job.key], kept.runs[job.about["run"]]
        far = max(abs(s["sigma"] - run["shifts"][s["name"]]["sigma"]) for s in found["shifts"] if s["sigma"])
        same = found["passed"] == (not alarms(run, 1.0))
        rows.append([run["set"], "passed" if found["passed"] else "failed", "yes" if same else "no", f"{far:.4f}"])
    return table(["run", "`mien audit --fail-on 'shift>1s'`", "the same verdict here", "largest difference, sigma"],
                 rows)  # fmt: skip


def settings_line(kept: Kept) -> str:
    """How everything was trained."""
    size, runs = kept.size, kept.runs
    steps = sorted({row["steps"] for row in runs.values() if "steps" in row})
    return (
        f"Each set has {size.samples} samples, {size.hold_out:.0%} of them held out; {size.epochs:g} epochs of "
        f"{size.batch} rows a step at a rate of {size.rate:g} ({' or '.join(map(str, steps))} steps), rows up to "
        f"{size.max_length} tokens. After it {size.questions} eval questions of the library's traits are answered "
        f"without system prompt in up to {size.max_tokens} tokens. {len(runs)} of {len(trainings(size))} runs are "
        f"done. By the median seconds of each kind of job all of it takes {_hours(kept):.1f} hours with two processes."
    )


def _hours(kept: Kept) -> float:
    """Of the whole, two jobs at a time: some were stopped for a while, so not the sum."""
    kinds: dict[str, list[float]] = {}
    for job in (job for job in jobs(kept.size) if "seconds" in kept.rows.get(job.key, {})):
        kinds.setdefault(f"{job.kind} {job.about.get('method', '')}", []).append(kept.rows[job.key]["seconds"])
    return sum(len(seconds) * float(np.median(seconds)) for seconds in kinds.values()) / 7200


def write(base: Path, size: Size, out: Path, sections: Sequence[str] | None = None) -> None:
    """Put the page together; with `sections`, beginnings of titles, the page keeps its others."""
    kept = Kept(base, size)
    if "base" not in kept.rows:
        raise SystemExit("Nothing was measured yet.")
    parts = {
        "here": "" if sections is None else _here(kept),
        "machine": "\n".join(machine_line.lines()), "settings": settings_line(kept),
        "agreement": agreement_table(kept), "doses": dose_table(kept), "prediction": prediction_table(kept),
        "planted": planted_table(kept), "prevention": prevention_table(kept), "goals": goals(kept),
        "alternatives": alternatives_table(kept), "speed": screening_speed(kept), "framing": framing_table(kept),
        "gate": gate_table(kept), "three": gate_table(kept, TRAITS), "names": gate_names(kept),
        "own_limits": own_limits_table(kept), "operating": operating_point(kept),
        "audits": audits_table(kept),
    }  # fmt: skip
    text = template.fill("training", parts)
    if sections is not None:
        text = template.with_kept(text, out.read_text("utf-8"), sections)
    if size is not FULL:
        text = f"*A trial run with little of everything.*\n\n{text}"
    out.write_text(text, "utf-8")


def _here(kept: Kept) -> str:
    """Where a section was measured that is newer than the rest of the page."""
    machine = " ".join(line.removeprefix("- ") + "." for line in machine_line.lines())
    return f"(Measured after the other sections, one seed a set. {machine})\n\n"
