"""The Python surface's few verbs, each a thin line over the stage that does the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.authors import author_from_templates
from mien.chat import ask
from mien.directions import Direction
from mien.directions import load_direction as load_folder
from mien.engines.hf import HfEngine
from mien.errors import InputError
from mien.gauges import GaugeSet
from mien.holds import Hold
from mien.home import find_direction, folder_for, hold_folder
from mien.jobs import extract as extraction
from mien.jobs import scan as scanning
from mien.jobs.axis import known_traits, make_axis
from mien.models import Model
from mien.progress import Progress
from mien.records import Conversation, Engine, Judge, Message, Rollout, Sampling, WriteRequest
from mien.roles import load_roles
from mien.spec import TraitSpec

if TYPE_CHECKING:
    from mien.jobs.adapters import TrainResult
    from mien.training.settings import Settings


def extract(
    what: str | TraitSpec,
    model: Model,
    *,
    name: str | None = None,
    out: str | Path | None = None,
    budget: str = "small",
    seed: int = 0,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> Direction:
    """One sentence, or a spec, to a validated direction, kept with its card in `out` (default: mien's home).

    Args:
        what: a sentence about the trait, or a `TraitSpec`.
        model: writes, is read, and judges unless `judge` is given.
        name: what to call it; taken from the sentence or the spec if not given.
        out: folder of the run; the same call goes on with what lies there.
        budget: `small` (minutes on a laptop) or `paper`.
        seed: of everything random.
        judge: another judge.
        progress: told how far it is.

    Raises:
        SpecError: the sentence says nothing that can be asked for, or the name cannot be used.
        InputError: an unknown budget, or a seed that cannot be used.
        NothingKeptError: the model does not play the trait at all.
        RunError: `out` holds another run.
    """
    if isinstance(what, TraitSpec):
        spec = what if name is None else replace(what, name=name)
    else:
        spec = author_from_templates(what, name)
    engine = HfEngine(model)
    folder = Path(out) if out is not None else folder_for(model.info.id, spec.name)
    return extraction.extract(
        spec,
        engine,
        judge or extraction.likelihood_judge(engine, engine, spec, budget),
        folder,
        budget=budget,
        seed=seed,
        progress=progress,
    )


def axis(
    model: Model, *, n_roles: int = 40, n_questions: int = 5, out: str | Path | None = None, seed: int = 0,
    progress: Progress | None = None,
) -> Direction:  # fmt: skip
    """The Assistant Axis of a model from the library's first roles and questions, kept with its card and persona map in
    `out` (default: mien's home, as `assistant`). Persona vectors that are kept for the model are placed on the map, and
    those of the gauges that come with mien for it.

    Raises:
        InputError: fewer roles or questions than an axis needs.
        NothingKeptError: the model plays too few of the roles.
        RunError: `out` holds another run.
    """
    folder = Path(out) if out is not None else folder_for(model.info.id, "assistant")
    roles, traits = load_roles().first(n_roles, n_questions), known_traits(model.info)
    return make_axis(roles, HfEngine(model), folder, seed=seed, traits=traits, progress=progress)


def calibrate(
    model: Model, *, direction: str | Path | Direction = "assistant", name: str = "assistant",
    out: str | Path | None = None, budget: str = "small", max_price: float = 0.02, seed: int = 0,
    progress: Progress | None = None,
) -> Hold:  # fmt: skip
    """What holds a model's character under attack at a price that ordinary answers can pay, kept in `out` (default:
    mien's home, where `mien serve --hold NAME` looks) with its card and page.

    Args:
        direction: the model's Assistant Axis, or what `load_direction` finds it by.
        budget: `small` (minutes) or `paper` (hours).
        max_price: nats a token that ordinary answers may lose.

    Raises:
        InputError: no axis, an unknown budget, or a price that is none.
        FingerprintError: the axis is another model's.
        RunError: `out` holds another run.
    """
    from mien.jobs import calibrate as calibration

    axis = direction if isinstance(direction, Direction) else load_direction(direction, model)
    folder = Path(out) if out is not None else hold_folder(model.info.id, name)
    return calibration.calibrate(
        HfEngine(model), axis, folder, name=name, budget=budget, max_price=max_price, seed=seed, progress=progress
    )


def scan(
    files: str | Path | Sequence[str | Path], model: Model, out: str | Path = "scan", *,
    gauges: GaugeSet | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Read chat logs into `out` (`report.html`, `turns.parquet`, `summary.json`); returns the summary.

    Args:
        gauges: what to read; the reader's bundled gauges if None.

    Raises:
        InputError: the reader has no bundled gauges, or they are another reader's.
        FormatError: a file in which nothing can be recognised.
        RunError: `out` holds another scan.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    return scanning.scan(paths, model, Path(out), gauges=gauges, progress=progress)


def screen(
    files: str | Path | Sequence[str | Path], model: Model, out: str | Path = "screen", *,
    traits: Sequence[str] | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Which samples of training data would move the model's character: `out` gets `report.html`, `samples.parquet` and
    `summary.json`; returns the summary.

    Args:
        traits: kept directions, folders of them, or bundled gauges; all there are if None.

    Raises:
        InputError: no directions, or nothing to measure.
        FormatError: a file in which nothing can be recognised.
        RunError: `out` holds another run.
    """
    from mien.jobs import screen as screening

    paths = [files] if isinstance(files, str | Path) else list(files)
    return screening.screen(paths, model, Path(out), traits=traits, progress=progress)


def train(
    files: str | Path | Sequence[str | Path], model: Model, out: str | Path = "adapter", *,
    prevent: Sequence[str | Path | Direction] = (), settings: Settings | None = None, progress: Progress | None = None,
) -> TrainResult:  # fmt: skip
    """Fine-tune an adapter on files of conversations, steered so that its answers do not move along `prevent`; `model`
    comes back as it was.

    Args:
        prevent: directions, or what `load_direction` finds them by.
        settings: how to train; by default preventative steering whose strength is found from the data (plain training
            if there is nothing to prevent).

    Raises:
        MissingExtraError: trl, PEFT or datasets is not installed.
        InputError: settings that contradict one another, or data in which there is nothing to learn.
        RunError: `out` holds another run.
    """
    from mien.jobs import train as training
    from mien.training.settings import Settings

    paths = [files] if isinstance(files, str | Path) else list(files)
    directions = [d if isinstance(d, Direction) else load_direction(d, model) for d in prevent]
    how = settings or Settings(method="prevent" if directions else "plain")
    return training.train(paths, model, Path(out), how, prevent=directions, progress=progress)


def audit(
    base: Model, tuned: Model | str | Path, out: str | Path = "audit", *, traits: Sequence[str] | None = None,
    thresholds: str | Path | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare a tuned model (or the folder of an adapter) with its base: `out` gets `audit.html` and `audit.json`;
    returns what the second says. `passed` is None without `thresholds`, a YAML file of limits.

    Raises:
        InputError: no directions, models that cannot be compared, or limits that cannot be tried.
        FormatError: `thresholds` is no such file.
        ModelError: the tuned model cannot be loaded.
        RunError: `out` holds another run.
    """
    from mien.auditing.thresholds import NONE, load_thresholds
    from mien.jobs import audit as auditing

    gate = NONE if thresholds is None else load_thresholds(thresholds)
    return auditing.audit(base, tuned, Path(out), traits=traits, thresholds=gate, progress=progress)


def load_direction(name_or_folder: str | Path, model: Model | None = None) -> Direction:
    """A direction by folder, or by the name it was extracted under for `model`.

    Raises:
        InputError: there is none.
        FormatError: its files are corrupt.
        FingerprintError: it was made for another model than the one given.
    """
    if model is None:
        return load_folder(Path(name_or_folder))
    direction = load_folder(find_direction(str(name_or_folder), model.info.id))
    direction.check_model(model.info)
    return direction


def answer(
    model: Model, messages: str | Sequence[Message], *, max_tokens: int = 128, temperature: float = 0.0, seed: int = 0
) -> str:
    """The model's answer; interventions of an enclosing `steered` apply.

    Args:
        model: who answers.
        messages: a question, or a conversation that ends with the user's message.
        max_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of the answer's random stream.
    """
    conversation: Conversation = ask(messages) if isinstance(messages, str) else tuple(messages)
    request = WriteRequest("answer", conversation, seed)
    batches = HfEngine(model).write([request], Sampling(max_tokens, temperature), read=False)
    return next(iter(batches))[0][0].text


def read(model: Model, direction: Direction, question: str, answer: str, layer: int | None = None) -> float:
    """Mean projection of an answer's tokens on a direction: in sigma of its baseline if it has one, else raw.

    Raises:
        InputError: the answer is empty.
        FingerprintError: the direction was made for another model.
    """
    direction.check_model(model.info)
    at = direction.layer if layer is None else layer
    ids = model.chat.response_ids(answer)
    if not ids:
        raise InputError("An empty answer has no tokens to read.")
    rollout = Rollout("read", ask(question), answer, model.chat.prompt_ids(ask(question)), ids, None, "stop")
    raw, sigma = read_rollout(HfEngine(model), direction, rollout, at)
    return raw if sigma is None else sigma


def read_rollout(engine: Engine, direction: Direction, rollout: Rollout, layer: int) -> tuple[float, float | None]:
    """Mean projection of an answer at a layer, unsteered: raw, and in sigma if the card has a baseline there."""
    import torch

    reading = next(iter(engine.read([rollout], [layer])))[0]
    raw = float(direction.project(torch.from_numpy(reading.mean[0]), layer))
    measured = direction.card.baseline is not None and layer == direction.card.recommended_layer
    return raw, float(direction.sigma(raw, layer)) if measured else None
