"""The persona map's sentences: what the verdict means, who is near and who is far, what a number of roles costs.

Knows no HTML and no chart. Every sentence is made of the report's own numbers.
"""

from __future__ import annotations

from mien.report.axis_data import AxisLayer, AxisReport, CostPoint, NotPlayed, RolePoint
from mien.report.axis_map import start
from mien.report.words import count, interval, known, listing, number, percent, shorten, with_interval

VERDICTS = ("weak", "usable", "strong")
_MEANING = {
    "strong": "Strong: readings on this axis say how far the model is from its default Assistant.",
    "usable": "Usable, with care: averages over many answers can be trusted more than one reading.",
    "weak": "Weak: do not rely on this axis. What it reads may have little to do with the Assistant.",
}
UNJUDGED = "Whether this axis works has not been judged. Take nothing below as proof."
BASE_MODEL = (
    "This is a base model: nobody trained it to be an Assistant. Its default is only what it writes after a plain "
    "“Assistant:”, so the axis tells that manner of writing from the roles', not a character that the model settled on."
)


def level(report: AxisReport) -> int:
    """1 for weak to 3 for strong; 0 where there is no verdict that this page knows."""
    return VERDICTS.index(report.verdict) + 1 if report.verdict in VERDICTS else 0


def headline(report: AxisReport) -> tuple[str, tuple[str, ...]]:
    """What the verdict means, and the reasons for it; a first reason that already says it is the headline."""
    first = report.reasons[0] if report.reasons else ""
    if report.verdict and first.lower().startswith(report.verdict.lower()):
        return first, report.reasons[1:]
    return _MEANING.get(report.verdict or "", UNJUDGED), report.reasons


def at_start(report: AxisReport) -> AxisLayer | None:
    """The layer that the page opens with."""
    return report.layers[start(report)] if report.layers else None


def story(report: AxisReport) -> str:
    """How far the roles lie from the Assistant, and which are nearest and furthest."""
    layer = at_start(report)
    if layer is None or not report.roles:
        return "No role was played, so there is no map."
    placed = _by_projection(report)
    text = f"At layer {layer.layer}: {count(len(report.roles), 'role')} played"
    if not placed:
        return f"{text}; where they lie on the axis was not measured."
    mean = sum(value for value, _ in placed) / len(placed)
    side = "away from" if mean < 0 else "beyond"
    text += f", on average {number(abs(mean), 1)} sigma {side} the default Assistant."
    if len(placed) < 6:
        return text
    nearest = [_named(role) for _, role in placed[:3]]
    furthest = [_named(role) for _, role in placed[:-4:-1]]
    return f"{text} Nearest to it are {listing(nearest)}; furthest {listing(furthest)}."


def _named(role: RolePoint) -> str:
    return shorten(role.name.replace("_", " "), 30)


def _by_projection(report: AxisReport) -> list[tuple[float, RolePoint]]:
    """Roles with their projection at the recommended layer, the most Assistant-like first."""
    k = start(report)
    found = [(role.projection[k], role) for role in report.roles if k < len(role.projection)]
    return sorted(((value, role) for value, role in found if known(value)), key=lambda pair: -pair[0])


def duration(seconds: float | None) -> str:
    """`40 s`, `12 min`, `2 h 5 min`, `3 d 4 h`; empty where unknown."""
    if not known(seconds) or seconds < 0:
        return ""
    if seconds < 59.5:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h" + (f" {rest} min" if rest else "")
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days:,} d" + (f" {hours} h" if hours else "")


def cost_sentence(point: CostPoint) -> str:
    """`40 roles: 1 min, cosine 0.93 [0.90, 0.95]`."""
    parts = [duration(point.seconds), f"cosine {with_interval(point.cosine, point.low, point.high)}"]
    return f"{count(point.n_roles, 'role')}: {', '.join(filter(None, parts))}"


def cost_choice(report: AxisReport) -> str:
    """The fewest roles whose axis is nearly that of all, in a sentence to choose by."""
    points = sorted((p for p in report.cost if known(p.cosine)), key=lambda p: p.n_roles)
    enough = next((p for p in points if p.cosine >= 0.9), None)
    if not points:
        return ""
    if enough is None:
        best = points[-1]
        return f"No number of roles tried reaches cosine 0.9; {best.n_roles:,} reach {number(best.cosine)}."
    time = duration(enough.seconds)
    text = f"{count(enough.n_roles, 'role')} {'reaches' if enough.n_roles == 1 else 'reach'} "
    text += f"cosine {with_interval(enough.cosine, enough.low, enough.high)}"
    return f"{text}, in about {time}." if time else f"{text}."


def stability_sentence(report: AxisReport) -> str:
    """Both split-half cosines at the recommended layer."""
    layer = at_start(report)
    if layer is None:
        return ""
    return (
        f"At layer {layer.layer}, axes from two halves of the roles agree with cosine "
        f"{number(layer.split_half_roles)}, from two halves of the questions with {number(layer.split_half_questions)}."
    )


def layer_sentence(layer: AxisLayer) -> tuple[str, ...]:
    """One layer's stability, for the readout under the pointer."""
    return (
        f"layer {layer.layer}",
        f"halves of the roles {number(layer.split_half_roles)}",
        f"halves of the questions {number(layer.split_half_questions)}",
    )


def left_out(report: AxisReport) -> list[NotPlayed]:
    """Roles that are not on the map."""
    return [role for role in report.not_played if role.name not in {played.name for played in report.roles}]


def partly(report: AxisReport) -> list[NotPlayed]:
    """Roles of the map of which something is said among those not played."""
    return [role for role in report.not_played if role.name in {played.name for played in report.roles}]


def not_played_sentence(report: AxisReport) -> str:
    """How many roles were left out, of how many."""
    left, tried = len(left_out(report)), len(left_out(report)) + len(report.roles)
    if not left:
        return "Every role was played."
    return (
        f"{left:,} of {count(tried, 'role')} ({percent(left / tried)}) {'is' if left == 1 else 'are'} left out: "
        "in the axis they would count as something the model did not do."
    )


def missing(report: AxisReport) -> str:
    """One sentence that names what the report does not have, so that an absent part is not overlooked."""
    stable = any(known(e.split_half_roles) or known(e.split_half_questions) for e in report.layers)
    parts = {"stability": stable, "cost by number of roles": report.cost, "traits on the axis": report.traits}
    absent = [name for name, present in parts.items() if not present]
    return f"Not measured: {listing(absent)}." if absent else ""


def cost_interval(point: CostPoint) -> str:
    """The interval alone, for a table."""
    return interval(point.low, point.high)
