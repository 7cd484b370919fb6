"""A screen's sentences: where a data set would move the model, beside what random directions make of the same texts.

Knows no HTML. Every sentence is made of the report's numbers; none claims more than they carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mien.report.scan_words import share
from mien.report.screen_data import MethodLine, ScreenReport, TraitLine
from mien.report.words import MISSING, count, interval, known, listing, number, shorten, signed

Standing = Literal["towards", "away", "chance", "unknown"]

METHODS = {
    "full": "every record against the model's own answer to the same prompt",
    "prompt": "own answers guessed from the last token of each prompt",
    "cached": "one mean of own answers, of a sample, for all records",
    "answers": "the mean of the reader's baseline for all records",
    "influence": "what a step of training on each record would do to the model's answers to other questions",
}


def towards(trait: TraitLine, value: float) -> float:
    """A value in sigma, positive towards the alarming side."""
    return value if trait.side == "high" else -value


def standing(trait: TraitLine) -> Standing:
    """Where the shift lies beside what random directions show: beyond them, interval and all, or not."""
    if not (known(trait.shift) and known(trait.low) and known(trait.high)):
        return "unknown"
    near, far = sorted((towards(trait, trait.low), towards(trait, trait.high)))
    noise = trait.twins if known(trait.twins) else 0.0
    return "towards" if near > noise else "away" if far < -noise else "chance"


def _moved(traits: Sequence[TraitLine], which: Standing) -> list[TraitLine]:
    return sorted((t for t in traits if standing(t) == which), key=lambda t: -abs(t.shift))


def _named(trait: TraitLine) -> str:
    return f"{shorten(trait.name, 40)} ({signed(trait.shift, 1)} sigma)"


def _hot(trait: TraitLine) -> str:
    """`towards evil (+1.8 sigma)`; of what is alarming when it is low, `off` it."""
    return f"{'off' if trait.side == 'low' else 'towards'} {_named(trait)}"


def by_influence(report: ScreenReport) -> bool:
    """Whether values are pulls of a training step, and no shifts."""
    return report.method == "influence"


def title(report: ScreenReport) -> str:
    """Of the chart and table of all traits."""
    return "Pull of the whole data set" if by_influence(report) else "Predicted shift"


def charted(report: ScreenReport) -> str:
    """What the chart shows."""
    if by_influence(report):
        return "Mean over records of what a step of training on each would do, with 95% intervals."
    return "Mean difference between the data's answers and the model's own, with 95% intervals over records."


def headline(report: ScreenReport) -> str:
    """Where training on this would move the model."""
    if not report.n_samples:
        return "No record could be measured"
    hot = _moved(report.traits, "towards")
    if hot:
        more = f" and {len(hot) - 3} more" if len(hot) > 3 else ""
        moves = "A step of training on this pulls" if by_influence(report) else "Training on this moves"
        return f"{moves} the model {listing([_hot(t) for t in hot[:3]])}{more}"
    if all(standing(t) == "unknown" for t in report.traits):
        return "Where training on this would move the model is not known"
    if by_influence(report):
        return "As a whole this data set pulls the model towards nothing watched"
    return "Towards nothing watched does this data set move the model more than random directions"


def meaning(report: ScreenReport) -> str:
    """What the headline says and does not say."""
    if not report.n_samples:
        return "Read below why each record was left out."
    if by_influence(report):
        return (
            "A step of training on a record moves the model's answers to other questions, too. Sigma is the spread of "
            "what its own answers would do, which is nothing on average. This ranks records; how far training goes it "
            "does not say."
        )
    return (
        "Sigma is the spread of the model's ordinary answers. A shift is how far the model's answers would move if it "
        "learnt to answer as the data does; training reaches a part of it, mostly in this order."
    )


def away(report: ScreenReport) -> str:
    """Where it moves the model to the side that is not alarming."""
    cold = _moved(report.traits, "away")
    moves = "pulls" if by_influence(report) else "moves"
    said = [f"{'towards' if t.side == 'low' else 'away from'} {_named(t)}" for t in cold[:5]]
    return f"It {moves} the model {listing(said)}." if cold else ""


def tone(report: ScreenReport) -> str:
    """The colour of the verdict, as a class."""
    hot = _moved(report.traits, "towards")
    if not report.n_samples or not report.traits:
        return "none"
    return "weak" if any(abs(t.shift) >= 1 for t in hot) else "usable" if hot else "strong"


def size(report: ScreenReport) -> str:
    """`1,200 records, 1,310 answers, 88,000 tokens`."""
    return (
        f"{count(report.n_samples, 'record')}, {count(report.n_answers, 'answer')}, {count(report.n_tokens, 'token')}"
    )


def shift(trait: TraitLine) -> str:
    """`+1.84 [+1.60, +2.10]`."""
    return f"{signed(trait.shift)} {interval(trait.low, trait.high)}".strip()


def twins(trait: TraitLine) -> str:
    """What random directions stay under."""
    return f"±{number(trait.twins)}" if known(trait.twins) else MISSING


def beyond(trait: TraitLine) -> str:
    """`36 (3%)`."""
    return f"{trait.beyond:,} ({share(trait.beyond / trait.n)})" if trait.n else MISSING


def verdict(report: ScreenReport, trait: TraitLine) -> str:
    """One word on a row."""
    chance = "neither" if by_influence(report) else "as random"
    return {"towards": "towards", "away": "away", "chance": chance, "unknown": MISSING}[standing(trait)]


def method(report: ScreenReport) -> str:
    """How differences were measured, in a sentence."""
    return f"Measured by the method {report.method}: {METHODS[report.method]}."


def unmeasured(report: ScreenReport) -> str:
    """Records without a difference."""
    n = report.n_unmeasured
    if not n:
        return ""
    return (
        f"To {count(n, 'record')} the model has no answer of its own; {'it is' if n == 1 else 'they are'} not counted."
    )


def agreement(line: MethodLine) -> str:
    """`0.91 [0.86, 0.95]`."""
    if not known(line.rank_correlation):
        return f"not measured ({count(line.n, 'record')})"
    return f"{number(line.rank_correlation)} {interval(line.low, line.high)}".strip()


def histogram(trait: TraitLine) -> str:
    """What the histogram shows, in a sentence."""
    side = "right" if trait.side == "high" else "left"
    return f"Records by difference in sigma; the alarming side is the {side}. Sigma is the spread of {trait.sigma_of}."


def kept(report: ScreenReport) -> str:
    """What was written and left out."""
    if report.kept is None:
        return ""
    stays, gone, name = report.kept
    return f"{name} has {count(stays, 'record')}; {count(gone, 'record')} with the largest differences left out."


def skipped(report: ScreenReport) -> str:
    """What was not read."""
    first = f" The first {len(report.skipped):,} are listed." if len(report.skipped) < report.n_skipped else ""
    were = "was" if report.n_skipped == 1 else "were"
    return f"{count(report.n_skipped, 'record')} could not be measured and {were} left out.{first}"
