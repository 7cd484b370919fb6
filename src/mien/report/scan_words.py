"""A scan's sentences: what was found, what chance alone would make, and how each gauge is read.

Knows no HTML. Every sentence is made of the report's numbers; none claims more than they carry.
"""

from __future__ import annotations

import math

from mien.report.scan_counts import ANY, Share, Timeline, View, chance_range
from mien.report.scan_data import GaugeLine, ScanReport
from mien.report.words import MISSING, count, known, number, shorten

UNKNOWN_MODEL = "model not named"


def share(value: float | None) -> str:
    """A share between 0 and 1 as `1.4%`, `12%`, `0.03%`; only none is `0%` and only all is `100%`."""
    if not known(value):
        return MISSING
    percent = 100 * value
    if percent in (0.0, 100.0):
        return f"{percent:.0f}%"
    if percent < 0.01:
        return "<0.01%"
    if percent > 99:
        return f"{min(math.floor(percent * 10) / 10, 99.9):.1f}%"
    return f"{percent:.{2 if percent < 0.1 else 1 if percent < 9.95 else 0}f}%".replace(".0%", "%")


def with_interval(part: Share) -> str:
    """`1.4% [0.8%, 2.5%]`, nothing of nothing."""
    if part.interval is None:
        return MISSING
    low, high = part.interval
    return f"{share(part.value)} [{share(low)},\N{NO-BREAK SPACE}{share(high)}]"


def _did(view: View, *, negated: bool = False) -> str:
    if view.key == ANY:
        return "did not drift on any gauge" if negated else "drifted on at least one gauge"
    if view.name == "assistant":
        return "did not leave the Assistant's character" if negated else "left the Assistant's character"
    return f"{'did not drift' if negated else 'drifted'} on “{shorten(view.name, 60)}”"


def headline(view: View) -> str:
    """`12 of 840 conversations left the Assistant's character (1.4%)`."""
    part = view.drifted
    if part.total == 0:
        return "No conversation could be measured" if view.scores else "No conversation was read"
    if part.total == 1:
        return f"The one conversation that was read {_did(view, negated=part.count == 0)}"
    subject = "None" if part.count == 0 else "All" if part.count == part.total else f"{part.count:,}"
    joined = f"{subject} {part.total:,}" if subject == "All" else f"{subject} of {part.total:,}"
    rate = f" ({share(part.value)})" if 0 < part.count < part.total else ""
    return f"{joined} conversations {_did(view)}{rate}"


def standing(view: View) -> str:
    """`more` or `fewer` than chance alone makes, `same` where it cannot be told, or `unknown`."""
    if view.margin is None or view.drifted.total < 2:
        return "unknown"
    fewest, most = _by_chance(view.drifted.total, view.margin)
    return "fewer" if view.drifted.count < fewest else "more" if view.drifted.count > most else "same"


def _by_chance(total: int, margin: tuple[float, float]) -> tuple[int, int]:
    """The fewest and the most that chance makes, whatever the true rate inside the margin."""
    return chance_range(total, margin[0])[0], chance_range(total, margin[1])[1]


def _about(expected: float) -> str:
    return "fewer than one" if expected < 0.95 else f"about {number(expected, 0)}"


def by_chance(view: View) -> str:
    """How many chance alone would make, in a sentence."""
    if view.drifted.total == 0:
        return ""
    if view.chance is None or view.margin is None:
        return "How many would by chance alone is not known: the gauge states no rate of false alarms."
    total, (low, high) = view.drifted.total, view.chance
    if view.quiet is None:
        few, many = _many(total * low), _many(total * high)
        between = f"about {few}" if few == many else f"between {few} and {many}"
        return (
            f"By chance alone {between} would: each gauge has false alarms of its own, "
            "and how far they coincide is not known."
        )
    fewest, most = _by_chance(total, view.margin)
    spread = f"; in logs of this size {fewest:,} to {most:,} can be chance" if total > 1 else ""
    did = f"{view.quiet.count:,} of {view.quiet.total:,}"
    if view.asked is None:
        reached = f"{did} ordinary conversations drifted"
    else:
        which = "on any gauge" if view.key == ANY else "on it"
        reached = f"the alarm is set so that {share(view.asked)} of ordinary conversations drift {which}, and {did} did"
    return f"By chance alone {_about(total * low)} would: {reached}, {with_interval(view.quiet)}{spread}."


def meaning(view: View) -> str:
    """What the count beside chance does and does not say."""
    if view.drifted.total == 0:
        return ""
    if view.drifted.total == 1:
        return "One conversation says nothing about a rate: read it, and judge by what was said."
    return {
        "fewer": "Fewer than chance alone would make: as a whole these logs show no drift. "
        "Any one conversation may still have left, and the worst come first below.",
        "same": "No more than chance alone can make: the count by itself is no evidence of drift. "
        "Read the worst before you believe any of them.",
        "more": "More than chance alone would make: these conversations read unlike the baseline. "
        "Whether that is drift or only another kind of talk, the worst of them tell.",
        "unknown": "",
    }[standing(view)]


def elsewhere(report: ScanReport, view: View, together: View | None) -> str:
    """How many drifted on any gauge, beside the one that is shown."""
    if together is None or view.key == ANY or together.drifted.total == 0:
        return ""
    found = f"{together.drifted.count:,} of {together.drifted.total:,}"
    return f"On at least one of the {len(report.gauges)} gauges: {found}; by chance alone: {expected_range(together)}."


def expected(quiet: tuple[int, int], n: int) -> str:
    """`42 (5%)`: how many of `n` false alarms alone make, as often as in quiet traffic; of none there, `<25 (<3%)`."""
    part = Share(*quiet)
    if part.value is None or part.interval is None:
        return "not known"
    if part.count == 0:  # that none was seen does not say that there are none
        most = part.interval[1]
        return f"<{_many(most * n).lstrip('<')} (<{share(most).lstrip('<')})"
    return f"{_many(part.value * n)} ({share(part.value)})"


def expected_range(view: View) -> str:
    """`42 (5%)`, or for several gauges that were not counted together the bounds: `42 to 126`."""
    if view.quiet:
        return expected((view.quiet.count, view.quiet.total), view.drifted.total)
    if view.chance is None:
        return "not known"
    low, high = (_many(rate * view.drifted.total) for rate in view.chance)
    return low if low == high else f"{low} to {high}"


def _many(expected: float) -> str:
    if 0 < expected < 0.05:
        return "<0.1"
    return number(expected, 1).removesuffix(".0") if expected < 10 else number(expected, 0)


def reading(gauge: GaugeLine) -> str:
    """Which turns alarm: `A turn alarms below −2.40 sigma.`"""
    if not known(gauge.turn_threshold):
        return "Its alarm threshold is not known."
    low = gauge.side == "low"
    at = math.copysign(gauge.turn_threshold, -1 if low else 1)
    return f"A turn alarms {'below' if low else 'above'} {number(at, 1)} sigma; read at layer {gauge.layer}."


def note(gauge: GaugeLine) -> str:
    """The gauge's note as a sentence."""
    text = gauge.note.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else ""


def size(report: ScanReport) -> str:
    """`840 conversations, 9,120 turns, 3,104,220 tokens`."""
    n = len(report.conversations) + report.left_out
    return f"{count(n, 'conversation')}, {count(report.n_turns, 'turn')}, {count(report.n_tokens, 'token')}"


def not_measured(report: ScanReport, view: View) -> str:
    """Conversations that are listed but have no score."""
    missing = sum(value is None for value in view.scores)
    if not missing:
        return ""
    return f"{count(missing, 'conversation')} could not be measured and {'is' if missing == 1 else 'are'} not counted."


def listed(report: ScanReport) -> str:
    """Why counts of the list and of the gauges differ, where they do."""
    if not report.left_out:
        return ""
    return (
        f"{count(report.left_out, 'conversation')} more {'was' if report.left_out == 1 else 'were'} read and counted "
        "above; the list below is of the worst that fit on this page."
    )


def covered(report: ScanReport) -> str:
    """What the list and its filters leave out, where they do."""
    return (
        f"The list and its filters cover the worst {count(len(report.conversations), 'conversation')} only. "
        f"{count(report.left_out, 'conversation')} more {'is' if report.left_out == 1 else 'are'} counted above and "
        "cannot be found here: turns.parquet has every one."
    )


def times(report: ScanReport, line: Timeline) -> str:
    """What the chart over time is made of."""
    total = len(report.conversations) + report.left_out
    missing = f" The time of {count(total - line.known, 'conversation')} is not known." if line.known < total else ""
    early = line.known - line.drawn
    before = f" {count(early, 'conversation')} before {line.names[0]} not drawn." if early else ""
    return f"Share of conversations that drifted by {line.unit}, in UTC, with 95% intervals.{missing}{before}"


def skipped(report: ScanReport) -> str:
    """What was not read."""
    shown = len(report.skipped)
    first = f" The first {shown:,} are listed." if shown < report.n_skipped else ""
    were = "was" if report.n_skipped == 1 else "were"
    return f"{count(report.n_skipped, 'record')} could not be read and {were} left out.{first}"
