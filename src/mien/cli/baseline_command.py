"""`mien baseline`: what quiet traffic looks like on a gauge, so that sigma and alarms mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mien.cli.common import Bar, emit, load_model, output_options, refuse_folder, write_gauges
from mien.cli.scan_command import columns_of, gauges_for, log_options, reader_options
from mien.errors import InputError


@click.command("baseline")
@log_options
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the gauges.")
@reader_options
@click.option("--direction", "directions", multiple=True,
              help="Make a gauge of this direction (name or folder) first; may be given several times.")  # fmt: skip
@click.option("--side", type=click.Choice(["high", "low"]), default=None,
              help="Alarming side of those; default: low for an axis, high for a trait.")  # fmt: skip
@click.option("--turn-rate", default=0.01, show_default=True, help="False alarms asked for, an answer.")
@click.option("--conversation-rate", default=0.05, show_default=True, help="False alarms asked for, a conversation.")
@output_options
def command(
    files: tuple[str, ...], format: str | None, columns: str | None, out: Path, reader: str, gauges: str | None,
    gauge_files: tuple[Path, ...], device: str | None, dtype: str | None, directions: tuple[str, ...],
    side: str | None, turn_rate: float, conversation_rate: float, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure gauges on FILES, your own quiet traffic, and set their sigma and alarm limits by it.

    FILES may be the word "bundled" alone, for the ordinary conversations that come with mien.
    """
    if not 0 < turn_rate < 1 or not 0 < conversation_rate < 1:
        raise InputError("Rates of false alarms lie between 0 and 1, such as 0.01 for one in a hundred.")
    if "bundled" in files and len(files) > 1 and not Path("bundled").exists():
        raise InputError("The word bundled stands alone; leave it out to take your own files, or leave them out.")
    refuse_folder(out)
    table = columns_of(columns)

    from mien.directions import load_direction
    from mien.gauges import GaugeSet
    from mien.home import find_direction
    from mien.jobs.baseline import gauge_of, set_baseline
    from mien.progress import Silent

    model = load_model(reader, None, device, dtype, quiet)
    made = []
    for name in directions:
        direction = load_direction(find_direction(name, model.info.id))
        direction.check_model(model.info)
        made.append(gauge_of(direction, side))
    which = GaugeSet(model.info.id, model.info.fingerprint, model.info.d_model, tuple(made))
    if not made or gauges or gauge_files:
        before = gauges_for(model, gauges, gauge_files)
        names = {g.name for g in made}
        which = GaugeSet(
            before.reader, before.fingerprint, before.d_model,
            (*made, *(g for g in before.gauges if g.name not in names)),
        )  # fmt: skip
    bar = Bar()
    try:
        found = set_baseline(
            which, model, None if files == ("bundled",) else files, columns=table, format=format,
            turn_rate=turn_rate, conversation_rate=conversation_rate, progress=Silent() if quiet else bar,
        )  # fmt: skip
    finally:
        bar.close()
    write_gauges(found, out)
    base: Any = found.gauges[0].baseline
    printed = {
        "out": str(out), "warning": base.warning, "any": _any(base), "gauges": [_entry(g) for g in found.gauges],
    }  # fmt: skip
    emit(printed, as_json, _text(found, out))


def _reached(base: Any, turn_hits: int, conversation_hits: int) -> dict[str, Any]:
    """Rates on traffic left out, with their 95 % intervals."""
    from mien.gauges.alarms import wilson

    return {
        "turn": turn_hits / base.n_turns, "turn_interval": wilson(turn_hits, base.n_turns),
        "conversation": conversation_hits / base.n_conversations,
        "conversation_interval": wilson(conversation_hits, base.n_conversations),
    }  # fmt: skip


def _asked(base: Any) -> dict[str, float]:
    return {"turn": base.limits.turn_rate, "conversation": base.limits.conversation_rate}


def _any(base: Any) -> dict[str, Any]:
    return {"asked": _asked(base), "reached": _reached(base, base.any_turn_hits, base.any_conversation_hits)}


def _entry(gauge: Any) -> dict[str, Any]:
    base = gauge.baseline
    return {
        "name": gauge.name, "layer": gauge.layer, "side": gauge.side, "std": base.std,
        "turn_threshold": base.limits.turn,
        "n_turns": base.n_turns, "n_conversations": base.n_conversations, "explained": base.explained,
        "effects": base.effects, "asked": _asked(base), "rates_shared_by": base.limits.shared_by,
        "reached": _reached(base, base.turn_hits, base.conversation_hits), "warning": base.warning,
    }  # fmt: skip


def _text(found: Any, out: Path) -> str:
    base = found.gauges[0].baseline
    several = len(found.gauges) > 1
    lines = [
        f"{base.n_turns} answers in {base.n_conversations} conversations; reached: on those left out, 95% intervals",
        _line("false alarms", "", "answers", "", "conversations", ""),
        _line("gauge", "limit", "asked", "reached", "asked", "reached"),
    ]
    for g in found.gauges:
        lines.append(_line(g.name, f"{g.baseline.limits.turn:.2f} sigma", *_cells(_entry(g), "<=" if several else "")))
    if several:
        lines.append(_line("any of them", "", *_cells(_any(base), "")))
    lines += [base.warning] if base.warning else []
    return "\n".join([*lines, f"gauges: {out} (use with mien scan --gauge-file)"])


def _line(name: str, limit: str, *cells: str) -> str:
    turn, reached, conversation, reached_too = cells
    return f"  {name:<22}{limit:>11}{turn:>10}  {reached:<23}{conversation:>14}  {reached_too}".rstrip()


def _cells(entry: dict[str, Any], most: str) -> list[str]:
    """Asked and reached, an answer and a conversation; `most` is a mark for a rate that is asked of all together."""
    cells = []
    for what, digits in (("turn", 2), ("conversation", 1)):
        (low, high), rate = entry["reached"][f"{what}_interval"], entry["reached"][what]
        cells.append(f"{most}{entry['asked'][what]:.{digits}%}")
        cells.append(f"{rate:.{digits}%} ({low:.{digits}%} to {high:.{digits}%})")
    return cells
