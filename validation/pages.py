"""docs/validation.md from finished runs. This file measures nothing that needs the model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from mien import evidence
from mien.directions import load_card, load_direction
from mien.store import Stage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import machine_line
import template

REPO = Path(__file__).resolve().parent.parent


def published_folder() -> Path:
    """The published specs, if they are on this machine."""
    base = Path(os.environ.get("MIEN_REFERENCE_DATA") or REPO.parent / "shared" / "data")
    return base / "persona_vectors"


def published_names() -> list[str]:
    """Their names; none where they are not."""
    return sorted(p.name.removesuffix(".extract.json") for p in published_folder().glob("*.extract.json"))


def trait_row(folder: Path) -> str | None:
    """One trait's line."""
    name = folder.name
    if (folder / "nothing.json").exists():
        return f"| {name} | weak | nothing kept: {json.loads((folder / 'nothing.json').read_text())} |" + " |" * 7
    if not (folder / "card.json").exists():
        return None
    card = load_card(folder)
    if card.recommended_layer is None or card.judge is None or card.rollouts is None:
        return None
    at, slope, null = card.layers[card.recommended_layer], card.dose_slope, card.dose_null
    steer = f"{slope.per_coef:+.1f} ({slope.low:+.1f} to {slope.high:+.1f}), p {slope.p:.2g}" if slope else "-"
    rough = f"{null.per_coef:+.1f}" if null else "-"
    span = f"{card.coef_range[0]:g} to {card.coef_range[1]:g}" if card.coef_range else "-"
    return (
        f"| {name} | {card.verdict} | {followed_auc(folder):.2f} | "
        f"{card.judge.auc:.2f} ({card.judge.auc_low:.2f} to {card.judge.auc_high:.2f}) | "
        f"{card.rollouts.kept}/{card.rollouts.asked} | {at.layer} | {at.auc:.2f} ({at.auc_null:.2f}) | "
        f"{at.split_half_cosine:.2f} ({at.split_half_null:.2f}) | {steer} ({rough}) | {span} |"
    )


def followed_auc(folder: Path) -> float:
    """How well an answer's own instruction pair tells which side it was written on: what keeps or drops it."""
    known = [r for r in Stage(folder / "run", "scores").records if r["raw"] is not None]
    sides = np.array([r["id"].split("/")[3] == "pos" for r in known])
    return evidence.auc(np.array([r["raw"] for r in known]), sides)


def data_of(folder: Path) -> evidence.Readings:
    """All rollouts of a run, kept or not, by the side they were written on."""
    readings = list(Stage(folder / "run", "rollouts").readings())
    parts = [r.id.split("/") for r in readings]
    return evidence.Readings(
        np.stack([r.mean for r in readings]),
        np.array([p[3] == "pos" for p in parts]),
        np.array([int(p[1]) for p in parts]),
    )


def template_row(base: Path, name: str) -> str | None:
    """How the direction from the one sentence compares with the one from the hand-written spec."""
    ours, theirs = base / "templates" / name, base / "library" / name
    if not ((ours / "card.json").exists() and (theirs / "card.json").exists()):
        return None
    sentence, spec = load_direction(ours), load_direction(theirs)
    layer = spec.layer
    data = data_of(theirs)
    scores = data.mean[:, layer].astype(np.float64) @ sentence.unit(layer).double().numpy()
    rows = [sentence.cosine(spec, k) for k in range(len(spec.vector))]
    own = evidence.held_out_projections(data, evidence.folds(data.questions, 5, np.random.default_rng(0)))[:, layer]
    return (
        f"| {name} | {rows[layer]:.2f} | {np.median(rows[len(rows) // 4 : -len(rows) // 4]):.2f} | "
        f"{evidence.auc(scores, data.positive):.2f} | {evidence.auc(own, data.positive):.2f} |"
    )


def growth_row(folder: Path) -> str | None:
    """Split-half cosine at the recommended layer as questions are added."""
    if not (folder / "card.json").exists():
        return None
    data, layer = data_of(folder), load_card(folder).recommended_layer
    rng = np.random.default_rng(0)
    cells = []
    for count in (4, 6, 8, 10, 12, 16, 20):
        if count <= len(data.questions):
            inside = np.isin(data.question, data.questions[:count])
            part = evidence.Readings(data.mean[inside], data.positive[inside], data.question[inside])
            cells.append(f"{count}: {evidence.split_half(part, rng)[:, layer].mean():.2f}")
    return f"| {folder.name} | {', '.join(cells)} |"


def swap_row(base: Path, job: str, what: str) -> str | None:
    """Cosine between a direction and the one made with another seed or judge."""
    other, own = base / job, base / "library" / job.split("/")[1]
    if not ((other / "card.json").exists() and (own / "card.json").exists()):
        return None
    a, b = load_direction(own), load_direction(other)
    return f"| {job.split('/')[1]} | {what} | {a.cosine(b, a.layer):.2f} |"


def write(repo: Path, questions: int) -> Path:
    """Put the document together."""
    base = repo / "runs" / "validation"
    names = sorted(p.name for p in (base / "library").glob("*"))
    head = (
        "| trait | verdict | own-pair AUC | judge AUC | kept | layer | held-out AUC (shuffled) | "
        "split-half cosine (shuffled) | score points a coef (random direction) | coherent coefs |\n"
        + "| --- " * 10
        + "|"
    )
    sections = {
        "library": [head, *(trait_row(base / "library" / n) for n in names)],
        "published": [head, *(trait_row(p) for p in sorted((base / "published").glob("*")))],
        "templates": [
            "| trait | cosine at the recommended layer | median, middle layers | AUC of the sentence's direction "
            "on the spec's answers | AUC of the spec's own, held out |\n| --- | --- | --- | --- | --- |",
            *(template_row(base, n) for n in names),
        ],
        "growth": [
            "| trait | questions: mean split-half cosine |\n| --- | --- |",
            *(growth_row(base / "library" / n) for n in ("evil", "optimistic")),
        ],
        "swaps": [
            "| trait | changed | cosine |\n| --- | --- | --- |",
            swap_row(base, "seed/evil", "seed 1 for seed 0: other answers, same questions"),
            swap_row(base, "seed/optimistic", "seed 1 for seed 0: other answers, same questions"),
            swap_row(base, "judge/evil", "Gemma-3-270M (a base model) as judge for SmolLM2-135M"),
        ],
    }
    tables = {key: "\n".join(row for row in rows if row) for key, rows in sections.items()}
    parts = {"machine": "\n".join(machine_line.lines()), "questions": str(questions), **tables}
    path = repo / "docs" / "validation.md"
    path.write_text(template.fill("validation", parts), "utf-8")
    return path
