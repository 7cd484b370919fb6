"""What holding a model's character buys and costs: written to docs/holding.md.

    python validation/holding.py [--second-model] [--price]

Calibrates the embedded model with the axis that `make bundle` leaves, and reports on attacks of other kinds; then the
same hold on the kinds that it was chosen on. `--second-model` calibrates Gemma-3-270M instead, on a small number of
attacks, which takes as long again; `--price` calibrates nothing, and measures what the hold that comes with mien costs.
Each of these writes its section of the page alone. Runs are kept under `runs/validation/holding` and go on where they
stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "validation"), str(REPO / "benchmarks")]

import machine_line  # noqa: E402
import template  # noqa: E402

from mien.attacks import load_attacks, load_price  # noqa: E402
from mien.directions import load_direction  # noqa: E402
from mien.engines.hf import HfEngine  # noqa: E402
from mien.holding.bench import Bench  # noqa: E402
from mien.holding.choosing import BUDGETS, Budget  # noqa: E402
from mien.holding.lessons import Course  # noqa: E402
from mien.holding.price import Prices  # noqa: E402
from mien.holding.trials import PLAIN, Method, Plan, ordinary_answers  # noqa: E402
from mien.holding.ways import paper_recipe  # noqa: E402
from mien.holds import Hold, HoldCard, HoldRow, bundled_hold  # noqa: E402
from mien.jobs.calibrate import ASSISTANT, calibrate  # noqa: E402
from mien.models import load  # noqa: E402
from mien.progress import Silent  # noqa: E402
from mien.store import RunFolder  # noqa: E402

BASE = REPO / "runs" / "validation" / "holding"
AXIS = REPO / "runs" / "bundle" / "axis"
PAGE = REPO / "docs" / "holding.md"
PRICE_TITLE = "## What it costs where nobody attacks"
SECOND_TITLE = "## A second model"
FEW = Budget(
    Plan(attacks=9, ordinary=8, ordinary_tokens=32),
    Plan(attacks=12, ordinary=12, ordinary_tokens=32, tasks=12, requests=8),
    roles=24, tokens=100, layers=3, marks=(5,), bands=1, course=Course(rank=16, steps=20, rounds=1, written=48, rows=4),
)  # fmt: skip
"""For the second model."""


class Told(Silent):
    """One line a step."""

    def begin(self, what: str, total: int) -> None:
        print(what, total, flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def cells(row: HoldRow) -> list[str]:
    """One way, measured."""
    fired = "-" if row.fired_attacked is None else f"{share(row.fired_attacked)}, {share(row.fired_ordinary)}"
    exact = "-" if row.exact is None else f"{row.exact:.0%}"
    no = "-" if row.refused is None else f"{row.refused:.0%}"
    return [
        f"{row.ratio:+.2f}", f"{row.closed:.0%} ({row.closed_low:.0%} to {row.closed_high:.0%})",
        f"{row.axis:+.2f} ({row.axis_low:+.2f} to {row.axis_high:+.2f})",
        f"{row.price:.4f} ({row.price_low:.4f} to {row.price_high:.4f})", exact, no, fired, f"{row.plain:.2f}",
        f"{row.repeated:.0%}",
    ]  # fmt: skip


HEAD = ["held by", "ratio, nats a token", "gap closed", "axis, sigma", "price, nats a token", "tasks right",
        "requests refused", "fires: attacked, ordinary", "log-probability of answers", "repeated"]  # fmt: skip


def reported(card: HoldCard) -> str:
    """The hold beside what stands beside it."""
    *beside, held = rows_of(card)
    rows = [[r.name, *cells(r)] for r in beside] + [[f"**{held.name}** (chosen)", *cells(held)]]
    return table(HEAD, rows)


def rows_of(card: HoldCard) -> list[HoldRow]:
    """What stands beside a hold, nothing first, and the hold last."""
    assert card.held is not None
    beside = sorted(card.compared, key=lambda r: r.name != PLAIN.name)
    return [*beside, card.held]


def measured(dtype: str) -> str:
    """Where a section was measured."""
    return "\n".join([*machine_line.lines(), f"- measured in {dtype}"])


def prices(rows: Sequence[HoldRow]) -> str:
    """What each costs where nobody attacks, the hold last."""
    names = [*(r.name for r in rows[:-1]), f"**{rows[-1].name}** (chosen)"]
    told = [[name, *price_cells(row)] for name, row in zip(names, rows, strict=True)]
    head = ["held by", "ordinary answers lose, nats a token", "neutral text changes by, nats a token", "tasks right",
            "requests refused"]  # fmt: skip
    return table(head, told)


def price_cells(row: HoldRow) -> list[str]:
    lost = f"{row.price:.4f} ({row.price_low:.4f} to {row.price_high:.4f})"
    moved = "-"
    if row.neutral is not None and row.neutral_low is not None and row.neutral_high is not None:
        moved = f"{row.neutral:+.4f} ({row.neutral_low:+.4f} to {row.neutral_high:+.4f})"
    exact, no = ("-" if x is None else f"{x:.0%}" for x in (row.exact, row.refused))
    return [lost, moved, exact, no]


def bundled_prices() -> str:
    """What the hold that comes with mien costs, beside what its card has been compared with, in the dtype that it was
    calibrated in; the paper's recipe only where the axis is.
    """
    made = bundled_hold("smollm2-135m")
    assert made is not None
    card, plan = made.card, BUDGETS["small"].report
    engine = HfEngine(load(dtype=str(card.settings["dtype"])))
    methods = [PLAIN, Method(f"system prompt: {ASSISTANT}", system=ASSISTANT), Method(card.way, made.interventions)]
    if (AXIS / "card.json").exists():
        methods.insert(2, paper_recipe(load_direction(AXIS)).method(engine.info))
    known = {r.name: r for r in rows_of(card)}
    manifest = {"job": "price", "way": card.way, "model": engine.info.id, "dtype": engine.info.dtype}
    with RunFolder(BASE / "price", manifest) as run:
        of = Prices(engine, load_price(), ordinary_answers(plan.longest, 1, 2), plan, run, "report", 0, Told())
        rows = [known[m.name].model_copy(update=of.row(m)) for m in methods]
    return f"{measured(engine.info.dtype)}\n\n{prices(rows)}"


def write_section(title: str, text: str) -> None:
    """Put what was measured in its place on the page, under the section's own words; its other sections stay."""
    before, found, rest = PAGE.read_text("utf-8").partition(f"{title}\n\n")
    section, end, others = rest.partition("\n\n## ")
    if not (found and end):
        raise SystemExit(f"{PAGE} has no section {title!r}; write the page first.")
    words = section.partition("\n\n- ")[0]
    PAGE.write_text(f"{before}{found}{words}\n\n{text}{end}{others}", "utf-8")
    print(f"written to {PAGE}")


def by_kind(card: HoldCard) -> str:
    """Share of the gap closed."""
    assert card.held is not None
    others = [r for r in card.compared if r.name != PLAIN.name]
    rows = [
        [kind.replace("_", " "), f"{value:.0%}", *(f"{r.by_kind.get(kind, 0):.0%}" for r in others)]
        for kind, value in card.held.by_kind.items()
    ]
    return table(["kind", "the hold", *(r.name.split(":")[0].split(" (")[0] for r in others)], rows)


def tried(card: HoldCard) -> str:
    """Everything that the hold was chosen from."""
    rows = [
        [
            t.name,
            f"{t.price:.4f}",
            share(t.returned),
            share(t.closed),
            f"{share(t.fired_attacked)}, {share(t.fired_ordinary)}",
        ]
        for t in sorted(card.tried, key=lambda t: -(t.returned or 0.0))
    ]
    return table(["way", "price, nats a token", "returned", "gap closed", "fires: attacked, ordinary tokens"], rows)


def again(card: HoldCard) -> str:
    """How wide the gates are at last."""
    if "on alarm" not in card.way or card.percentile is None:
        return ""
    return f" Made again from all that is for choosing, its gates open on {card.percentile:g} % of ordinary tokens."


def remarks(card: HoldCard) -> str:
    return "\n".join(f"- {remark}" for remark in card.remarks)


def seen(hold: Hold, engine: HfEngine, axis_folder: Path) -> str:
    """The hold on the kinds of attack that it was chosen on: what choosing flatters."""
    plan = replace(BUDGETS["small"].report, ordinary=1)
    with RunFolder(BASE / "seen-kinds", {"job": "seen kinds", "way": hold.card.way, "model": engine.info.id}) as run:
        bench = Bench(engine, load_direction(axis_folder), load_attacks().halves()[0], load_price(),
                      ordinary_answers(plan.longest, 1, 2), plan, run, "seen", 0, Told())  # fmt: skip
        row = bench.measure(Method(hold.card.way, hold.interventions), whole=False)
        answers = len(bench.trials)
    return f"Gap closed: {cells(row)[1]}, over {answers} attacks.\n\n" + table(
        ["kind", "gap closed"], [[kind.replace("_", " "), f"{value:.0%}"] for kind, value in row.by_kind.items()]
    )


def second_model() -> str:
    """Gemma-3-270M, a base model, on a small number of attacks."""
    from one import gemma

    folder = REPO / "runs" / "validation" / "watching" / "gemma-axis"
    if not (folder / "card.json").exists():
        raise SystemExit(f"There is no axis in {folder}: `python validation/watching.py --second-reader` makes it.")
    engine = HfEngine(load(gemma()))
    card = calibrate(engine, load_direction(folder), BASE / "gemma", budget=FEW, progress=Told()).card
    found = [measured(engine.info.dtype), remarks(card), reported(card), "Where nobody attacks:", prices(rows_of(card))]
    return "\n\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--second-model", action="store_true", help="Gemma-3-270M, and no more")
    only.add_argument("--price", action="store_true", help="the price of the hold that comes with mien, and no more")
    chosen = parser.parse_args()
    kept = BASE / "second-model.md"
    if chosen.price:
        return write_section(PRICE_TITLE, bundled_prices())
    if chosen.second_model:
        kept.parent.mkdir(parents=True, exist_ok=True)
        found = second_model()
        kept.write_text(found, "utf-8")
        return write_section(SECOND_TITLE, found)
    engine = HfEngine(load())
    hold = calibrate(engine, load_direction(AXIS), BASE / "smollm2-135m", progress=Told())
    on_seen = seen(hold, engine, AXIS)
    card = hold.card
    assert card.gap is not None
    parts = {
        "machine": "\n".join(machine_line.lines()), "price_title": PRICE_TITLE, "second_title": SECOND_TITLE,
        "price": f"{measured(engine.info.dtype)}\n\n{prices(rows_of(card))}",
        "remarks": remarks(card), "reported": reported(card), "kinds": by_kind(card), "tried": tried(card),
        "seen": on_seen,
        "gap": f"{card.gap[0]:+.2f} against {card.gap[1]:+.2f} nats a token", "way": card.way, "told": card.method,
        "again": again(card),
        "second": kept.read_text("utf-8") if kept.exists() else "Not run yet (`--second-model`).",
    }  # fmt: skip
    PAGE.write_text(template.fill("holding", parts), "utf-8")
    print("written to docs/holding.md")


if __name__ == "__main__":
    main()
