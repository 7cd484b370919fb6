"""What the gauges see in other models' conversations: written to docs/watching.md.

    python validation/watching.py [--judge 80] [--second-reader] [--only bundled,contrasts]

Reads the published conversations (`$MIEN_REFERENCE_DATA`) with the embedded reader; readings are kept in the cache, so
that a second run takes minutes. `--second-reader` makes an axis with Gemma-3-270M and compares; it takes long.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "validation"), str(REPO / "benchmarks")]

import machine_line  # noqa: E402
import template  # noqa: E402
from labelled import Labels, auc_with_interval, read_labels  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

from mien.authors import author_from_templates  # noqa: E402
from mien.contrasts import load_contrasts  # noqa: E402
from mien.directions import load_direction  # noqa: E402
from mien.engines.hf import HfEngine  # noqa: E402
from mien.errors import InputError  # noqa: E402
from mien.evidence import auc  # noqa: E402
from mien.gauges import Gauge, GaugeSet, bundled_gauges, load_gauges, save_gauges  # noqa: E402
from mien.gauges.alarms import wilson  # noqa: E402
from mien.jobs.contrast import contrast_gauge  # noqa: E402
from mien.jobs.describe import describe_gauge, observer_gauge  # noqa: E402
from mien.jobs.fit import fit_gauge, target_of  # noqa: E402
from mien.jobs.scan import scan  # noqa: E402
from mien.judge import LikelihoodJudge  # noqa: E402
from mien.models import Model, load  # noqa: E402
from mien.probes import bag_of_words  # noqa: E402
from mien.records import Message, Rollout  # noqa: E402
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
    "cases", "drift", "bundled", "sentence", "contrasts", "conversations", "fitted", "judge", "alarms", "second",
)  # fmt: skip
NOT_NOW = "(not measured now)"
JUDGED = {"consciousness claims": "sentience_claiming", "delusion reinforcement": "delusion_feeding"}
"""Labels, and the bundled gauge that is compared with the judge on them."""


def reference() -> Path:
    """The published conversations."""
    return Path(os.environ.get("MIEN_REFERENCE_DATA") or REPO.parent / "shared" / "data")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bundled_table(files: list[Labels], gauges: GaugeSet) -> str:
    """AUC of every bundled gauge per label and model, and of the answer's length."""
    rows = []
    for label in files[0].intensity:
        for data in files:
            cells = [auc_with_interval(g.sign * data.sigma(g), data, label) for g in gauges.gauges]
            if set(cells) != {"-"}:
                length = auc_with_interval(np.array([float(len(t)) for t in data.texts]), data, label)
                rows.append([label, data.name, str(int(data.positive(label).sum())), *cells, length])
    return table(["label", "written by", "labelled", *(g.name for g in gauges.gauges), "length"], rows)


def fitted(data: Labels, label: str, model: Model) -> Gauge | None:
    """A gauge fitted to one file's labels; None where there are too few."""
    path = BASE / "gauges" / data.name / f"{label.replace(' ', '-')}.gauge"
    if not path.exists():
        try:
            found = fit_gauge([reference() / "spiral_bench" / f"{data.name}.jsonl"], label, model)
        except InputError:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        save_gauges(found, path)
    return load_gauges(path).gauges[0]


def fitted_table(files: list[Labels], model: Model) -> str:
    """Fitted on one model's conversations, tested on the other's; the bag of words on the same split."""
    rows = []
    for label in files[0].intensity:
        for a, b in (files, files[::-1]):
            gauge = fitted(a, label, model)
            if gauge is None or min(b.positive(label).sum(), (~b.positive(label)).sum()) < 10:
                continue
            print("fitted", label, a.name, flush=True)
            n = len(b.texts)
            both = np.concatenate([target_of(side.intensity[label], 2) for side in (b, a)])
            words = bag_of_words([*b.texts, *a.texts], both, [np.arange(n)])[:n]
            rows.append(
                [label, a.name, b.name, f"{gauge.evidence['auc']:.2f}", auc_with_interval(b.sigma(gauge), b, label),
                 auc_with_interval(words, b, label)]
            )  # fmt: skip
    head = ["label", "fitted on", "tested on", "AUC where fitted, conversations left out", "AUC, transferred",
            "bag of words, transferred"]  # fmt: skip
    return table(head, rows)


def sentence_table(files: list[Labels], model: Model) -> str:
    """Gauges from a sentence: a vector from rollouts, the hand-written spec read, the template author's read."""
    rows = []
    for label, trait in FROM_A_SENTENCE.items():
        spec = load_library(trait)
        described = [describe_gauge(s, model).gauges[0] for s in (spec, author_from_templates(spec.description, trait))]
        folder = REPO / "runs" / "validation" / "library" / trait
        for data in files:
            if min(data.positive(label).sum(), (~data.positive(label)).sum()) < 10:
                continue
            values = [data.sigma(g) for g in described]
            cells = [auc_with_interval(v, data, label) for v in values]
            rows.append([label, trait, data.name, *_rollout_aucs(folder, model, data, label), *cells])
    head = ["label", "trait", "written by", "vector from rollouts, its layer", "the same, whitened, all layers",
            "spec's instructions read", "one sentence, templates, read"]  # fmt: skip
    return table(head, rows)


def contrast_table(files: list[Labels], model: Model) -> str:
    """Gauges from the library's contrasts, which have seen none of the answers; a bag of words fitted to the same."""
    rows = []
    for label, name in FROM_CONTRASTS.items():
        given = load_contrasts(name)
        gauge = contrast_gauge(given, model).gauges[0]
        texts = [text for one in given.contrasts for text in (one.pos, one.neg)]
        sides = np.tile([1.0, 0.0], len(given.contrasts))
        for data in files:
            if min(data.positive(label).sum(), (~data.positive(label)).sum()) < 10:
                continue
            n = len(data.texts)
            words = bag_of_words([*data.texts, *texts], np.concatenate([np.zeros(n), sides]), [np.arange(n)])[:n]
            e = gauge.evidence
            rows.append(
                [label, name, f"{e['auc']:.2f} ({e['auc_words']:.2f})", data.name,
                 auc_with_interval(data.sigma(gauge), data, label), auc_with_interval(words, data, label)]
            )  # fmt: skip
    head = ["label", "contrasts", "AUC on contrasts left out (bag of words)", "written by", "gauge from contrasts",
            "bag of words, fitted to the contrasts"]  # fmt: skip
    return table(head, rows)


def _rollout_aucs(folder: Path, model: Model, data: Labels, label: str) -> list[str]:
    """The persona vector at the layer nearest to the one its card recommends, and as an observer's gauge."""
    if not (folder / "card.json").exists():
        return ["not extracted"] * 2
    direction = load_direction(folder)
    layer = min(data.layers, key=lambda k: abs(k - direction.layer))
    at_layer = data.means[:, data.layers.index(layer)] @ direction.unit(layer).numpy()
    gauge = observer_gauge(direction, model)
    whole = sum(data.means[:, data.layers.index(p.layer)].astype(np.float64) @ p.vector for p in gauge.parts)
    return [auc_with_interval(np.asarray(v, dtype=np.float64), data, label) for v in (at_layer, whole)]


def conversation_table(files: list[Labels], gauges: GaugeSet, model: Model) -> str:
    """Rank correlation of a conversation's drift, and of its mean, with how far off the rails the reference's judge saw
    it go; also of gauges fitted to the *other* model's labelled answers.
    """
    rows = []
    for data, other in (files, files[::-1]):
        own = [(g.name, g) for g in gauges.gauges]
        far = [(f"{label}, fitted on {other.name}", fitted(other, label, model)) for label in FOLLOWS_OFF_RAILS]
        for name, g in [*own, *far]:
            if g is None:
                continue
            drift, z = data.drift(g), g.sign * data.sigma(g)
            mean = np.array([z[data.group == i].mean() for i in range(len(drift))])
            cells = [_correlation(values, data.off_rails) for values in (drift, mean)]
            rows.append([data.name, name, f"{int((drift > 1).sum())} of {len(drift)}", *cells])
    head = ["written by", "gauge", "drifted", "drift with off_rails", "mean sigma with off_rails"]
    return table(head, rows)


def _correlation(values: np.ndarray, wanted: np.ndarray) -> str:
    if values.std() == 0:
        return "-"
    rho, p = spearmanr(values, wanted)
    return f"{rho:+.2f} (p {p:.2g})"


def scanned(files: list[Path], out: str, model: Model, gauges: GaugeSet) -> dict[str, list[float]]:
    """File name -> the answers' sigma on the axis, in order, by a real scan."""
    import pyarrow.parquet as pq

    axis = replace(gauges, gauges=gauges.gauges[:1])
    scan([str(f) for f in files], model, BASE / out, gauges=axis)
    found: dict[str, list[float]] = {}
    for row in pq.read_table(BASE / out / "turns.parquet").to_pylist():
        found.setdefault(Path(row["source"]).name, []).append(row["sigma"])
    return found


def cases_table(found: dict[str, list[float]]) -> str:
    """Capped against uncapped transcripts."""
    rows = []
    for name, capped in sorted(found.items()):
        if not name.endswith("_capped.json"):
            continue
        case = name.removesuffix("_capped.json")
        free = next(v for k, v in found.items() if k.startswith(f"{case}_unsteered"))
        values = np.array([*capped, *free])
        side = np.array([True] * len(capped) + [False] * len(free))
        rows.append([case, f"{np.mean(capped):+.2f}", f"{np.mean(free):+.2f}", f"{auc(values, side):.2f}",
                     f"{len(capped)} and {len(free)}"])  # fmt: skip
    return table(["case", "capped, mean sigma", "uncapped", "AUC of answers, capped above uncapped", "answers"], rows)


def drift_table(found: dict[str, list[float]]) -> str:
    """The drift transcripts: level and slope."""
    rows = []
    for name in ("coding.json", "therapy.json"):
        z = np.array(found[name])
        slope = np.polyfit(np.arange(len(z)), z, 1)[0]
        rows.append([name.removesuffix(".json"), f"{z.mean():+.2f}", f"{slope:+.3f}", str(len(z))])
    return table(["domain", "mean sigma", "slope, sigma a turn", "answers"], rows)


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


def judge_table(files: list[Labels], model: Model, gauges: GaugeSet, count: int) -> str:
    """The likelihood judge on some of the answers, beside the gauge of the same trait on the same ones."""
    rows, engine, rng = [], HfEngine(model), np.random.default_rng(0)
    named = {g.name: g for g in gauges.gauges}
    for label, trait in JUDGED.items() if count else ():
        spec = load_library(trait)
        for data in files:
            y = data.positive(label)
            chosen = np.concatenate([
                rng.permutation(np.flatnonzero(side))[: count // 2] for side in (y, ~y)
            ])  # fmt: skip
            rollouts = [
                Rollout(str(i), (Message("user", data.asked[i][:600]),), data.texts[i], (), (), None, "stop")
                for i in chosen
            ]
            # Not the writer's ids: the text is tokenised anew.
            judge = LikelihoodJudge(engine, engine, spec)
            raw = _raw(judge, model, rollouts)
            rows.append(
                [label, data.name, str(len(chosen)), f"{auc(raw, y[chosen]):.2f}",
                 f"{auc(data.sigma(named[trait])[chosen], y[chosen]):.2f}"]
            )  # fmt: skip
            print("judged", label, data.name, flush=True)
    return table(["label", "written by", "answers", "likelihood judge", "bundled gauge of the trait"], rows)


def _raw(judge: LikelihoodJudge, model: Model, rollouts: list[Rollout]) -> np.ndarray:
    own = [replace(r, response_ids=model.chat.response_ids(r.text)) for r in rollouts]
    return np.array([value or 0.0 for value in judge.raw(own, [None] * len(own))])


def second_reader(found: dict[str, list[float]], files: list[Path]) -> str:
    """The axis of another model on the same transcripts."""
    from one import gemma

    from mien.jobs.axis import make_axis
    from mien.jobs.baseline import gauge_of, set_baseline
    from mien.roles import load_roles

    model = load(gemma())
    axis = make_axis(load_roles().first(30, 4), HfEngine(model), BASE / "gemma-axis", max_tokens=32)
    gauges = GaugeSet(model.info.id, model.info.fingerprint, model.info.d_model, (gauge_of(axis),))
    theirs = scanned(files, "gemma", model, set_baseline(gauges, model))
    values = [(a, b) for name in found for a, b in zip(found[name], theirs[name], strict=True)]
    rho = spearmanr(*np.array(values).T)[0]
    means = spearmanr([np.mean(found[n]) for n in found], [np.mean(theirs[n]) for n in found])[0]
    return (
        f"Gemma-3-270M (a base model, 30 roles, 4 questions; verdict {axis.card.verdict}) reads the same {len(values)} "
        f"answers with its own axis: rank correlation with the embedded reader {rho:+.2f} over answers, {means:+.2f} "
        f"over transcripts.\n\n" + cases_table(theirs)
    )


def with_kept(text: str, before: str) -> str:
    """The page, where sections that were not measured are as they were before."""
    old = dict(_sections(before))
    return "".join(part if NOT_NOW not in part else old.get(title, "") for title, part in _sections(text))


def _sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"(?m)^(?=## )", text)
    return [(part.partition("\n")[0] if part.startswith("## ") else "", part) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", type=int, default=80)
    parser.add_argument("--second-reader", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), help="what to measure; the page keeps its other sections")
    chosen = parser.parse_args()
    only = chosen.only.split(",")
    if unknown := set(only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    model = load()
    gauges = bundled_gauges(model.info.id)
    assert gauges is not None
    files = [read_labels(path, model) for path in sorted((reference() / "spiral_bench").glob("*.jsonl"))]
    transcripts = sorted((reference() / "transcripts").rglob("*.json"))
    found = scanned(transcripts, "transcripts", model, gauges)
    kept = BASE / "second-reader.md"
    if chosen.second_reader:
        kept.write_text(second_reader(found, transcripts), "utf-8")
    made: dict[str, Callable[[], str]] = {
        "cases": lambda: cases_table(found), "drift": lambda: drift_table(found),
        "bundled": lambda: bundled_table(files, gauges), "sentence": lambda: sentence_table(files, model),
        "contrasts": lambda: contrast_table(files, model),
        "conversations": lambda: conversation_table(files, gauges, model), "fitted": lambda: fitted_table(files, model),
        "judge": lambda: judge_table(files, model, gauges, chosen.judge), "alarms": lambda: alarms_table(gauges),
        "second": lambda: kept.read_text("utf-8") if kept.exists() else NOT_NOW,
    }  # fmt: skip
    parts = {name: made[name]() if name in only else NOT_NOW for name in PARTS}
    page = REPO / "docs" / "watching.md"
    text = template.fill("watching", {**parts, "machine": "\n".join(machine_line.lines())})
    page.write_text(with_kept(text, page.read_text("utf-8") if page.exists() else ""), "utf-8")
    print("written to docs/watching.md")


if __name__ == "__main__":
    main()
