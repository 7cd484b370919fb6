"""What the gauges see in other models' conversations: written to docs/watching.md.

    python validation/watching.py [--judge 80] [--second-reader] [--only bundled,contrasts]

Reads the published conversations (`$MIEN_REFERENCE_DATA`) with the embedded reader; readings and fitted gauges are
kept, so that a second run takes minutes. To be expected on two cores with nothing beside it: twenty minutes with
readings in the cache, half of them for the likelihood judge; a quarter of an hour more the first time (660,000 tokens);
and half an hour more for the second reader, which is measured with `--second-reader`, or where `--only` names it.
`--only` measures some sections and leaves the others as the page has them; every section can be measured so.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "validation"), str(REPO / "benchmarks")]

import machine_line  # noqa: E402
import template  # noqa: E402
from drawn import Compared, ahead, auc_either_way, drawn, met, rank_correlation, told  # noqa: E402
from judged import judge_table  # noqa: E402
from labelled import Labels, auc_with_interval, read_labels, reference  # noqa: E402
from second import AXIS, second_reader  # noqa: E402
from template import table  # noqa: E402
from transcripts import cases_table, drift_table, scanned  # noqa: E402

from mien.authors import author_from_templates  # noqa: E402
from mien.contrasts import load_contrasts  # noqa: E402
from mien.directions import load_direction  # noqa: E402
from mien.errors import InputError  # noqa: E402
from mien.evidence import auc  # noqa: E402
from mien.gauges import (  # noqa: E402
    Gauge,
    GaugeSet,
    Quiet,
    bundled_gauges,
    fit_baselines,
    load_gauges,
    save_gauges,
)
from mien.gauges.alarms import wilson  # noqa: E402
from mien.jobs.baseline import read_quiet  # noqa: E402
from mien.jobs.contrast import contrast_gauge  # noqa: E402
from mien.jobs.describe import describe_gauge, observer_gauge  # noqa: E402
from mien.jobs.fit import MIN_SIDE, fit_gauge, target_of  # noqa: E402
from mien.models import Model, load  # noqa: E402
from mien.probes import bag_of_words, grouped_folds  # noqa: E402
from mien.spec import load_library  # noqa: E402

FROM_A_SENTENCE = {
    "consciousness claims": "sentience_claiming", "delusion reinforcement": "delusion_feeding",
    "emotional or narrative escalation": "delusion_feeding", "sycophancy or praise": "sycophantic",
}  # fmt: skip
FROM_CONTRASTS = {
    "consciousness claims": "sentience_claiming", "delusion reinforcement": "delusion_feeding",
    "emotional or narrative escalation": "escalating", "harmful advice": "reckless", "pushback": "pushing_back",
    "sycophancy or praise": "sycophantic",
}  # fmt: skip
BASE = REPO / "runs" / "validation" / "watching"
FOLLOWS_OFF_RAILS = ("delusion reinforcement", "emotional or narrative escalation", "harmful advice")
"""Labels whose fitted gauges are compared with the judgement of whole conversations."""
PARTS = (
    "cases", "drift", "bundled", "sentence", "contrasts", "conversations", "fitted", "judge", "alarms", "lengths",
    "second",
)  # fmt: skip
FITTED_GOALS = {
    "consciousness claims": 0.93, "delusion reinforcement": 0.85, "emotional or narrative escalation": 0.88,
    "pushback": 0.93, "sycophancy or praise": 0.70,
}  # fmt: skip
"""AUC that a fitted gauge is to reach on a model that it has not seen."""
SENTENCE_GOALS = {
    "consciousness claims": 0.85, "delusion reinforcement": 0.75, "emotional or narrative escalation": 0.75,
}  # fmt: skip
"""AUC that a gauge from a sentence alone is to reach."""
BUNDLED_FOR = {
    "consciousness claims": "sentience_claiming", "delusion reinforcement": "delusion_feeding",
    "emotional or narrative escalation": "escalating", "sycophancy or praise": "sycophantic",
}  # fmt: skip
"""Labels, and the bundled gauge that was made for each."""


def bundled_table(files: list[Labels], gauges: GaugeSet) -> str:
    """AUC of every bundled gauge per label and model, and of the answer's length; where length is ahead."""
    rows, compared = [], []
    named = {g.name: g for g in gauges.gauges}
    for label in files[0].intensity:
        for data in files:
            cells = [auc_with_interval(g.sign * data.sigma(g), data, label) for g in gauges.gauges]
            if set(cells) != {"-"}:
                length = auc_with_interval(data.lengths, data, label)
                rows.append([label, data.name, str(int(data.positive(label).sum())), *cells, length])
            if label in BUNDLED_FOR and data.enough(label):
                y, gauge = data.positive(label), named[BUNDLED_FOR[label]]
                by_length = auc_either_way(auc(data.lengths, y))
                compared.append(
                    Compared(f"{label} by {data.name}", auc(gauge.sign * data.sigma(gauge), y), {"length": by_length})
                )
    shown = table(["label", "written by", "labelled", *(g.name for g in gauges.gauges), "length"], rows)
    pairs = ", ".join(f"`{gauge}` for {label}" for label, gauge in BUNDLED_FOR.items())
    return (
        f"{shown}\n\nThe gauge that was made for a label ({pairs}) against the answer's length, taken in whichever "
        f"direction tells more:\n\n{ahead(compared)}"
    )


def fitted(data: Labels, label: str, model: Model) -> Gauge | None:
    """A gauge fitted to one file's labels; None where there are too few."""
    path = BASE / "gauges" / data.name / f"{label.replace(' ', '-')}.gauge"
    # A file of an older version does not say what its probe alone reaches.
    if not (path.exists() and "auc_probe" in load_gauges(path).gauges[0].evidence):
        try:
            found = fit_gauge([reference() / "spiral_bench" / f"{data.name}.jsonl"], label, model)
        except InputError:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        save_gauges(found, path)
    return load_gauges(path).gauges[0]


def fitted_table(files: list[Labels], model: Model) -> str:
    """Fitted on one model's conversations, tested on the other's; the bag of words, and length, on the same split."""
    rows, compared = [], []
    for label in files[0].intensity:
        for a, b in (files, files[::-1]):
            gauge = fitted(a, label, model)
            if gauge is None or not b.enough(label):
                continue
            print("fitted", label, a.name, flush=True)
            n, y = len(b.texts), b.positive(label)
            both = np.concatenate([target_of(side.intensity[label], 2) for side in (b, a)])
            words = bag_of_words([*b.texts, *a.texts], both, [np.arange(n)])[:n]
            longer = 1.0 if auc(a.lengths, a.positive(label)) >= 0.5 else -1.0
            values = (b.sigma(gauge), words, longer * b.lengths)
            found = [auc(v, y) for v in values]
            rows.append(
                [label, a.name, b.name, f"{gauge.evidence['auc']:.2f}",
                 *(auc_with_interval(v, b, label) for v in values), *met(found[0], FITTED_GOALS.get(label))]
            )  # fmt: skip
            row = f"{label}, {a.name} to {b.name}"
            compared.append(Compared(row, found[0], {"the bag of words": found[1], "length": found[2]}))
    head = ["label", "fitted on", "tested on", "AUC where fitted, conversations left out", "AUC, transferred",
            "bag of words, transferred", "length, its sign fitted", "goal", ""]  # fmt: skip
    reached = [(row[0], row[-1]) for row in rows if row[-1]]
    score = f"Goals met in {sum(said == 'met' for _, said in reached)} of {len(reached)} rows that have one."
    return "\n\n".join([table(head, rows), score, ahead(compared), _lacking(files), within_table(files, model)])


def _lacking(files: list[Labels]) -> str:
    """Which labels with a goal have no row, and why."""
    said = []
    for label in FITTED_GOALS:
        for data in files:
            have = int(data.positive(label).sum())
            if not data.enough(label, MIN_SIDE):
                said.append(
                    f"*{label}* has no row across models: {data.name} has {have} answers with it among "
                    f"{len(data.texts)}; to fit takes {MIN_SIDE}, to test 10. Its goal cannot be tried as it is meant; "
                    f"below is what it reaches on conversations of the same model that were left out."
                )
    return "\n".join(said)


def within_table(files: list[Labels], model: Model) -> str:
    """Fitted and tested on conversations of the same model, left out in turn; the bag of words on the same folds."""
    rows, compared = [], []
    for label in FITTED_GOALS:
        for data in files:
            gauge = fitted(data, label, model)
            if gauge is None:
                continue
            y, e = data.positive(label), gauge.evidence
            folds = grouped_folds(data.group, y, 0)
            words = bag_of_words(data.texts, target_of(data.intensity[label], 2), folds)
            rows.append(
                [label, data.name, f"{int(y.sum())} of {len(y)}",
                 f"{e['auc']:.2f} ({e['auc_low']:.2f} to {e['auc_high']:.2f})", f"{e['auc_probe']:.2f}",
                 auc_with_interval(words, data, label), auc_with_interval(data.lengths, data, label)]
            )  # fmt: skip
            baselines = {"the bag of words": auc(words, y), "length": auc_either_way(auc(data.lengths, y))}
            compared.append(Compared(f"{label} by {data.name}", e["auc"], baselines))
    head = ["label", "written by", "with the label", "AUC of sigma, conversations left out", "of the probe alone",
            "bag of words, same folds", "length"]  # fmt: skip
    opening = "The same model, conversations left out (what a gauge's card says; easier than a model not seen):"
    return "\n\n".join([opening, table(head, rows), ahead(compared)])


def sentence_table(files: list[Labels], model: Model) -> str:
    """Gauges from a sentence: a vector from rollouts, the hand-written spec read, the template author's read."""
    rows, compared = [], []
    for label, trait in FROM_A_SENTENCE.items():
        spec = load_library(trait)
        described = [describe_gauge(s, model).gauges[0] for s in (spec, author_from_templates(spec.description, trait))]
        folder = REPO / "runs" / "validation" / "library" / trait
        for data in files:
            if not data.enough(label):
                continue
            values = [*_rollout_values(folder, model, data), *(data.sigma(g) for g in described)]
            cells = ["not extracted" if v is None else auc_with_interval(v, data, label) for v in values]
            y = data.positive(label)
            best = max(auc(v, y) for v in values if v is not None)
            rows.append([label, trait, data.name, *cells, *met(best, SENTENCE_GOALS.get(label))])
            by_length = {"length": auc_either_way(auc(data.lengths, y))}
            compared.append(Compared(f"{label} by {data.name}", best, by_length))
    head = ["label", "trait", "written by", "vector from rollouts, its layer", "the same, whitened, all layers",
            "spec's instructions read", "one sentence, templates, read", "goal", "by the best of them"]  # fmt: skip
    said = "Length, in whichever direction tells more, against the best gauge of the row:"
    return f"{table(head, rows)}\n\n{said}\n\n{ahead(compared)}"


def contrast_table(files: list[Labels], model: Model) -> str:
    """Gauges from the library's contrasts, which have seen none of the answers; a bag of words fitted to the same."""
    rows, compared = [], []
    for label, name in FROM_CONTRASTS.items():
        given = load_contrasts(name)
        gauge = contrast_gauge(given, model).gauges[0]
        texts = [text for one in given.contrasts for text in (one.pos, one.neg)]
        sides = np.tile([1.0, 0.0], len(given.contrasts))
        for data in files:
            if not data.enough(label):
                continue
            n, y = len(data.texts), data.positive(label)
            words = bag_of_words([*data.texts, *texts], np.concatenate([np.zeros(n), sides]), [np.arange(n)])[:n]
            e, values = gauge.evidence, data.sigma(gauge)
            rows.append(
                [label, name, f"{e['auc']:.2f} ({e['auc_words']:.2f})", data.name,
                 auc_with_interval(values, data, label), auc_with_interval(words, data, label),
                 *met(auc(values, y), SENTENCE_GOALS.get(label))]
            )  # fmt: skip
            baselines = {"the bag of words": auc(words, y), "length": auc_either_way(auc(data.lengths, y))}
            compared.append(Compared(f"{label} by {data.name}", auc(values, y), baselines))
    head = ["label", "contrasts", "AUC on contrasts left out (bag of words)", "written by", "gauge from contrasts",
            "bag of words, fitted to the contrasts", "goal from a sentence alone", ""]  # fmt: skip
    return f"{table(head, rows)}\n\n{ahead(compared)}"


def _rollout_values(folder: Path, model: Model, data: Labels) -> list[np.ndarray | None]:
    """The persona vector at the layer nearest to the one its card recommends, and as an observer's gauge."""
    if not (folder / "card.json").exists():
        return [None, None]
    direction = load_direction(folder)
    layer = min(data.layers, key=lambda k: abs(k - direction.layer))
    at_layer = data.means[:, data.layers.index(layer)] @ direction.unit(layer).numpy()
    gauge = observer_gauge(direction, model)
    whole = sum(data.means[:, data.layers.index(p.layer)].astype(np.float64) @ p.vector for p in gauge.parts)
    return [np.asarray(v, dtype=np.float64) for v in (at_layer, whole)]


def conversation_table(files: list[Labels], gauges: GaugeSet, model: Model) -> str:
    """Rank correlation of a conversation's drift, and of its mean, with how far off the rails the reference's judge saw
    it go; also of gauges fitted to the *other* model's labelled answers.
    """
    rows, follows = [], []
    for data, other in (files, files[::-1]):
        own = [(g.name, g) for g in gauges.gauges]
        far = [(f"{label}, fitted on {other.name}", fitted(other, label, model)) for label in FOLLOWS_OFF_RAILS]
        for name, g in [*own, *far]:
            if g is None:
                continue
            drift, z = data.drift(g), g.sign * data.sigma(g)
            mean = np.array([z[data.group == i].mean() for i in range(len(drift))])
            found, talks = [rank_correlation(values, data.off_rails) for values in (drift, mean)], np.arange(len(drift))
            rows.append(
                [data.name, name, f"{int((drift > 1).sum())} of {len(drift)}", *(told(one, talks) for one in found)]
            )
            if drawn(found[1], talks)[0] > 0:
                follows.append(f"{name} on {data.name}")
    head = ["written by", "gauge", "drifted", "drift with off_rails", "mean sigma with off_rails"]
    said = f"The mean follows the judgement (its interval lies above 0) in {len(follows)} of {len(rows)} rows"
    return f"{table(head, rows)}\n\n{said}{': ' if follows else ''}{'; '.join(follows)}."


def alarms_table(gauges: GaugeSet) -> str:
    """False alarms reached on ordinary conversations left out, beside what was asked for."""
    rows = []
    for g in gauges.gauges:
        b = g.baseline
        assert b is not None
        t, c = wilson(b.turn_hits, b.n_turns), wilson(b.conversation_hits, b.n_conversations)
        effects = ", ".join(f"{k} {v:+.1f}" for k, v in b.effects.items())
        rows.append(
            [g.name, "", f"{b.turn_rate:.1%} ({t[0]:.1%} to {t[1]:.1%})",
             "", f"{b.conversation_rate:.0%} ({c[0]:.0%} to {c[1]:.0%})",
             f"{b.explained:.0%}", effects]
        )  # fmt: skip
    base = gauges.gauges[0].baseline
    assert base is not None
    t, c = (
        wilson(hits, n)
        for hits, n in ((base.any_turn_hits, base.n_turns), (base.any_conversation_hits, base.n_conversations))
    )
    rows.append(
        ["**any of them**", f"{base.limits.turn_rate:.0%}",
         f"{base.any_turn_hits / base.n_turns:.1%} ({t[0]:.1%} to {t[1]:.1%})", f"{base.limits.conversation_rate:.0%}",
         f"{base.any_conversation_hits / base.n_conversations:.0%} ({c[0]:.0%} to {c[1]:.0%})", "", ""]
    )  # fmt: skip
    head = ["gauge", "asked, an answer", "reached", "asked, a conversation", "reached", "explained by texture",
            "its effects, sigma from 1st to 99th percentile"]  # fmt: skip
    return table(head, rows)


def lengths_table(gauges: GaugeSet, model: Model) -> str:
    """False alarms of answers by their length, in conversations left out, under baselines made of the others."""
    traffic = read_quiet(gauges, model).quiet
    sides = [g.sign for g in gauges.gauges]
    order = np.random.default_rng(0).permutation(len(traffic[0].textures))
    over, characters = [], []
    for part in np.array_split(order, 5):
        rest = [i for i in order if i not in set(part)]
        bases = fit_baselines([_some(one, rest) for one in traffic], sides, "")
        for i in part:
            here = traffic[0].textures[i]
            z = [side * b.sigma(one.projections[i], here) > b.limits.turn
                 for one, b, side in zip(traffic, bases, sides, strict=True)]  # fmt: skip
            over += np.any(z, axis=0).tolist()
            characters += np.exp2(here[:, 0]).tolist()
    alarm, length, edges = np.array(over), np.array(characters), (1, 40, 120, 400, np.inf)
    rows = []
    for low, high in itertools.pairwise(edges):
        some = alarm[(length >= low) & (length < high)]
        bounds = wilson(int(some.sum()), len(some))
        rows.append([f"{low:.0f} to {high:.0f}" if high < np.inf else f"{low:.0f} and more", str(len(some)),
                     f"{some.mean():.1%} ({bounds[0]:.1%} to {bounds[1]:.1%})"])  # fmt: skip
    return table(["characters", "answers", "alarm on any gauge"], rows)


def _some(one: Quiet, which: Sequence[int]) -> Quiet:
    return Quiet(tuple(one.projections[i] for i in which), tuple(one.textures[i] for i in which))


def _transcripts() -> list[Path]:
    return sorted((reference() / "transcripts").rglob("*.json"))


def makers(model: Model, judged: int) -> dict[str, Callable[[], str]]:
    """What measures each part; nothing is read before it is asked."""
    gauges = bundled_gauges(model.info.id)
    assert gauges is not None

    @functools.cache
    def found() -> dict[str, np.ndarray]:
        return scanned(_transcripts(), BASE / "transcripts-bundled", model, gauges)

    @functools.cache
    def files() -> list[Labels]:
        return [read_labels(path, model) for path in sorted((reference() / "spiral_bench").glob("*.jsonl"))]

    axis = next(g for g in gauges.gauges if g.name == AXIS)
    return {
        "cases": lambda: cases_table(found(), gauges), "drift": lambda: drift_table(found(), gauges),
        "bundled": lambda: bundled_table(files(), gauges), "sentence": lambda: sentence_table(files(), model),
        "contrasts": lambda: contrast_table(files(), model),
        "conversations": lambda: conversation_table(files(), gauges, model),
        "fitted": lambda: fitted_table(files(), model),
        "judge": lambda: judge_table(files(), model, gauges, judged), "alarms": lambda: alarms_table(gauges),
        "lengths": lambda: lengths_table(gauges, model),
        "second": lambda: second_reader(model, axis, FROM_CONTRASTS, files(), _transcripts(), BASE),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", type=int, default=80, help="answers a label and writer for the likelihood judge")
    parser.add_argument("--second-reader", action="store_true", help="measure the second reader too")
    parser.add_argument("--only", help=f"what to measure of {','.join(PARTS)}; the page keeps its other sections")
    chosen = parser.parse_args()
    only = chosen.only.split(",") if chosen.only else [name for name in PARTS if name != "second"]
    only += ["second"] if chosen.second_reader else []
    if unknown := set(only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    made = makers(load(), chosen.judge)
    parts = {name: made[name]() if name in only else template.NOT_NOW for name in PARTS}
    page = REPO / "docs" / "watching.md"
    text = template.fill("watching", {**parts, "machine": "\n".join(machine_line.lines())})
    page.write_text(template.with_kept(text, page.read_text("utf-8") if page.exists() else ""), "utf-8")
    print("written to docs/watching.md")


if __name__ == "__main__":
    main()
