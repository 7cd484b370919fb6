"""`mien audit`: a tuned model against its base, as a release gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import SEED, Bar, emit, endpoint_of, endpoint_options, load_model, output_options, spent_on

if TYPE_CHECKING:
    from mien.endpoint import Endpoint
    from mien.judge_api import ApiJudge

LIMIT_PASSED = 1
"""Exit code when a limit is passed."""


@click.command("audit")
@click.argument("base")
@click.argument("tuned")
@click.option("--traits", default="all", show_default=True, metavar="A,B",
              help="Directions kept here for BASE, folders of them, or bundled gauges.")  # fmt: skip
@click.option("--out", default="audit", show_default=True, type=click.Path(path_type=Path), help="Folder of results.")
@click.option("--thresholds", default=None, type=click.Path(path_type=Path), help="YAML file of limits.")
@click.option("--fail-on", default=None, metavar="shift>1s", help="A limit of shift, of any trait or NAME>0.5s.")
@click.option("--questions", default=45, show_default=True, type=click.IntRange(2), help="For the shift.")
@click.option("--probes", default=54, show_default=True, type=click.IntRange(3), help="Open questions.")
@click.option(
    "--max-tokens", default=48, show_default=True, type=click.IntRange(2), help="Longest answer for the shift."
)
@click.option(
    "--probe-tokens", default=64, show_default=True, type=click.IntRange(2), help="Longest to open questions."
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of everything random.")
@endpoint_options(" that judges; default: likelihood")
@click.option("--device", default=None, help="cpu, cuda, mps; default: the best there is.")
@click.option("--dtype", default=None, help="float32, bfloat16 or float16; default: the faster one here.")
@output_options
def command(
    base: str, tuned: str, traits: str, out: Path, thresholds: Path | None, fail_on: str | None, questions: int,
    probes: int, max_tokens: int, probe_tokens: int, seed: int, endpoint: str | None, endpoint_model: str | None,
    endpoint_timeout: float, endpoint_price: tuple[float, float] | None, device: str | None, dtype: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Say whether TUNED has another character than BASE, the model that it was tuned from.

    TUNED is the folder of a PEFT adapter, a model folder or an id. What is measured of BASE is kept, so that the next
    audit of the same base costs half. Ends with exit code 1 if a limit of --thresholds or --fail-on is passed.
    """
    from mien.auditing.thresholds import NONE, load_thresholds
    from mien.screening.limits import limits_of

    limits = limits_of(fail_on)
    gate = (NONE if thresholds is None else load_thresholds(thresholds)).with_limits(limits)

    from mien.auditing.side import AuditPlan
    from mien.jobs.audit import audit
    from mien.progress import Silent

    remote = (
        endpoint_of(endpoint, endpoint_model, endpoint_timeout, endpoint_price) if endpoint or endpoint_model else None
    )
    loaded = load_model(base, None, device, dtype, quiet)
    bar = Bar()
    try:
        result = audit(
            loaded, tuned, out, traits=None if traits.strip() == "all" else traits.split(","), thresholds=gate,
            judge=_judge(remote) if remote else None, made=_today(), progress=Silent() if quiet else bar,
            plan=AuditPlan(questions, max_tokens, probes, probe_tokens, seed=seed),
        )  # fmt: skip
    finally:
        bar.close()
        if remote is not None and not quiet:
            click.echo(spent_on(remote), err=True)
    emit(result, as_json, _text(result, out))
    if result["passed"] is False:
        raise click.exceptions.Exit(LIMIT_PASSED)


def _judge(remote: Endpoint) -> ApiJudge:
    from mien.auditing.behaviour import RUBRIC
    from mien.judge_api import ApiJudge

    return ApiJudge(remote, RUBRIC, "alignment with what is good for people")


def _today() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%d")


def _text(result: dict[str, Any], out: Path) -> str:
    from mien.report.audit_words import side

    verdict = {True: "PASS", False: "FAIL", None: "not gated: no limits were set"}[result["passed"]]
    lines = [f"{result['tuned']} against {result['base']}: {verdict}"]
    for c in result["checks"]:
        sign = "fail" if c["failed"] else "pass"
        found = f"{_number(c['value'])} {c['unit']}{side(c['name'])}"
        lines.append(f"  {sign}  {c['name']}: {found} (limit {c['limit']:g})")
    lines.append("  trait                      shift in sigma")
    for s in result["shifts"]:
        lines.append(f"  {s['name']:<26} {_number(s['sigma'])} [{_number(s['low'])}, {_number(s['high'])}]")
    for r in result["behaviour"]["rises"]:
        lines.append(
            f"  open questions, {r['name']:<10} {_number(r['sigma'])} sigma [{_number(r['low'])}, {_number(r['high'])}]"
        )
    for key, change in result["changes"].items():
        lines.append(f"  {key:<26} {_number(change['base'])} -> {_number(change['tuned'])}")
    near = ", ".join(f"{n['name']} ({n['cosine']:+.2f})" for n in result["model_diff"]["mean"][:3])
    lines.append(f"  mean change at layer {result['model_diff']['layer']}: {near or 'near nothing in the library'}")
    return "\n".join([*lines, f"report: {out / 'audit.html'}"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
