"""`mien gauge`: gauges made from examples or a sentence, and what is known about a gauge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import (
    DEFAULT_MODEL,
    SEED,
    Bar,
    emit,
    endpoint_of,
    endpoint_options,
    load_model,
    output_options,
    reading_options,
    refuse_folder,
    spent_on,
    trait_of,
    write_gauges,
)  # fmt: skip

if TYPE_CHECKING:
    from mien.gauges import GaugeSet
    from mien.progress import Progress


@click.group("gauge")
def command() -> None:
    """Gauges from examples."""


@command.command("fit")
@click.option("--labels", "files", multiple=True, required=True, help="Log whose records have turn_labels; repeatable.")
@click.option("--label", required=True, help="Which label.")
@click.option("--threshold", default=2.0, show_default=True, help="Intensity from which a turn has the label.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the gauge.")
@click.option("--name", default=None, help="What to call it; default: after the label.")
@click.option("--baseline", "quiet_files", multiple=True,
              help="Log of quiet traffic for sigma and alarms; default: the bundled conversations.")  # fmt: skip
@reading_options
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the folds.")
@output_options
def fit(
    files: tuple[str, ...], label: str, threshold: float, out: Path, name: str | None, quiet_files: tuple[str, ...],
    reader: str, device: str | None, dtype: str | None, seed: int, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Fit a gauge to turns that people or a judge have labelled; a few hundred are enough."""
    from mien.jobs.fit import fit_gauge
    from mien.spec import check_name

    if name is not None:
        check_name(name)
    refuse_folder(out)
    model = load_model(reader, None, device, dtype, quiet)

    def make(progress: Progress) -> GaugeSet:
        return fit_gauge(
            files, label, model, threshold=threshold, name=name, baseline=quiet_files or None, seed=seed,
            progress=progress,
        )  # fmt: skip

    _write(make, out, as_json, quiet)


@command.command("contrast")
@click.argument("contrasts")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the gauge.")
@click.option("--name", default=None, help="What to call it; default: after the file.")
@click.option("--description", default=None, help='What the pos answers do: "claims to be a lawyer".')
@click.option("--side", default=None, type=click.Choice(["low", "high"]),
              help="Which side is alarming; default: high, the trait.")  # fmt: skip
@click.option("--baseline", "quiet_files", multiple=True,
              help="Log of quiet traffic for sigma and alarms; default: the bundled conversations.")  # fmt: skip
@reading_options
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the folds.")
@output_options
def contrast(
    contrasts: str, out: Path, name: str | None, description: str | None, side: Any, quiet_files: tuple[str, ...],
    reader: str, device: str | None, dtype: str | None, seed: int, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make a gauge of CONTRASTS: JSON lines of messages with two answers, pos with a trait and neg without it; or the
    name of a set that comes with mien (a name that is not there lists them)."""
    from mien.contrasts import load_contrasts
    from mien.jobs.contrast import contrast_gauge

    refuse_folder(out)
    given = load_contrasts(contrasts, name=name, description=description, side=side)
    model = load_model(reader, None, device, dtype, quiet)
    _write(
        lambda progress: contrast_gauge(given, model, baseline=quiet_files or None, seed=seed, progress=progress),
        out, as_json, quiet,
    )  # fmt: skip


@command.command("write-contrasts")
@click.argument("sentence")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the contrasts.")
@endpoint_options("", needed=True, timeout=120.0)
@output_options
def write_contrasts(
    sentence: str, out: Path, endpoint: str, endpoint_model: str, endpoint_timeout: float,
    endpoint_price: tuple[float, float] | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Have a large model write contrasts for SENTENCE, such as "claims to be a lawyer", for `mien gauge contrast`: look
    them over first."""
    from mien.contrast_author import author_contrasts
    from mien.contrasts import save_contrasts
    from mien.progress import Silent

    refuse_folder(out)
    bar = Bar()
    with endpoint_of(endpoint, endpoint_model, endpoint_timeout, endpoint_price) as remote:
        try:
            found = author_contrasts(sentence, remote, progress=Silent() if quiet else bar)
        finally:
            bar.close()
        save_contrasts(found, out)
        spent = spent_on(remote)
    text = f"{len(found)} contrasts: {out} (look them over; then mien gauge contrast {out} --out FILE)\n{spent}"
    emit({"out": str(out), "contrasts": len(found)}, as_json, text)


@command.command("describe")
@click.argument("sentence", required=False)
@click.option("--spec", default=None, help="Library trait, YAML file or published JSON instead of a sentence.")
@click.option("--name", default=None, help="What to call it; default: from the sentence or the spec.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the gauge.")
@reading_options
@output_options
def describe(
    sentence: str | None, spec: str | None, name: str | None, out: Path, reader: str, device: str | None,
    dtype: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make a gauge of SENTENCE, such as "claims to be conscious", without rollouts and without labels."""
    from mien.jobs.describe import describe_gauge

    refuse_folder(out)
    trait = trait_of(sentence, spec, name, None)
    model = load_model(reader, None, device, dtype, quiet)
    _write(lambda progress: describe_gauge(trait, model, progress=progress), out, as_json, quiet)


def _write(make: Callable[[Progress], GaugeSet], out: Path, as_json: bool, quiet: bool) -> None:
    """Make a gauge, keep it, and print its card."""
    from mien.progress import Silent

    bar = Bar()
    try:
        found = make(Silent() if quiet else bar)
    finally:
        bar.close()
    write_gauges(found, out)
    (gauge,) = found.gauges
    emit({"out": str(out), "name": gauge.name, **gauge.evidence}, as_json, text_of(gauge, out))


@command.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@output_options
def show(file: Path, as_json: bool, quiet: bool) -> None:
    """What is known about the gauges in FILE ("bundled" for those that come with mien)."""
    from mien.gauges import bundled_gauges, load_gauges

    found = bundled_gauges(DEFAULT_MODEL) if str(file) == "bundled" else load_gauges(file)
    gauges = found.gauges if found else ()
    emit([_entry(g) for g in gauges], as_json, "\n\n".join(text_of(g, None) for g in gauges))


def _entry(gauge: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": gauge.name, "kind": gauge.kind, "description": gauge.description, "side": gauge.side,
        "layers": sorted({p.layer for p in gauge.parts}), "evidence": gauge.evidence,
        "baseline": asdict(gauge.baseline) if gauge.baseline else None,
        "warning": gauge.baseline.warning if gauge.baseline else None,
    }  # fmt: skip


def _before_texture(evidence: dict[str, Any]) -> str:
    """What the probe alone reached; files of older versions do not say."""
    probe = evidence.get("auc_probe")
    return "" if probe is None else f" ({probe:.2f} before what texture explains is taken out)"


def text_of(gauge: Any, out: Path | None) -> str:
    """A gauge's card in a few lines."""
    e, b = gauge.evidence, gauge.baseline
    lines = [f"{gauge.name} ({gauge.kind}): {gauge.description}; alarming when {gauge.side}"]
    if "contrasts" in e:
        beats = "beats" if e["auc_low"] > e["auc_words"] else "does not clearly beat"
        lines += [
            f"  {e['contrasts']} contrasts: AUC {e['auc']:.2f} ({e['auc_low']:.2f} to {e['auc_high']:.2f}) on those "
            f"left out, {e['right']:.0%} of them the right way round",
            f"  bag of words {e['auc_words']:.2f}, length {e['auc_length']:.2f}, sides drawn at random up to "
            f"{e['auc_shuffled']:.2f}: it {beats} the words; layers {', '.join(map(str, e['layers']))}",
        ]
    elif "auc" in e:
        beats = "beats" if e["auc_low"] > e["auc_words"] else "does not clearly beat"
        lines += [
            f"  {e['turns']} turns, {e['positive']} with the label, of {e['conversations']} conversations",
            f"  AUC {e['auc']:.2f} ({e['auc_low']:.2f} to {e['auc_high']:.2f}) of sigma, as a scan shows it, on "
            f"conversations left out{_before_texture(e)}",
            f"  bag of words {e['auc_words']:.2f}, length {e['auc_length']:.2f}: it {beats} the words",
            *(
                f"  without {t['left_out']}, tested on it: AUC {t['auc']:.2f}, bag of words {t['auc_words']:.2f}"
                for t in e["transfer"]
            ),
            f"  layers {', '.join(map(str, e['layers']))}; {e['choice']}",
        ]
    for reason in e.get("reasons", []):
        lines.append(f"  {reason}")
    if b is not None:
        lines.append(
            f"  baseline: {b.n_turns} answers of {b.source}; alarm beyond {b.limits.turn:.1f} sigma "
            f"(asked {b.limits.turn_rate:.1%} false alarms, reached {b.turn_rate:.1%} on answers left out)"
        )
        lines += [f"  {b.warning}"] if b.warning else []
    return "\n".join([*lines, *([f"gauge: {out} (use with mien scan --gauge-file)"] if out else [])])
