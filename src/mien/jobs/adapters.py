"""An adapter's folder: the weights as PEFT writes them, a card of how they came about, and the run beside them.

This file does not know how an adapter is trained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mien.directions import Direction
from mien.errors import FormatError, RunError
from mien.models import Model
from mien.store import RunFolder, canonical, disk_errors, write_atomic

CARD_FILE = "card.json"
_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class TrainResult:
    """A trained adapter."""

    folder: Path
    """Loads with `mien.load(model, adapter=folder)` and with PEFT's `PeftModel.from_pretrained(net, folder)`."""
    card: Mapping[str, Any]
    """How it came about; docs/train.md says what is in it."""

    @property
    def shift(self) -> dict[str, Any]:
        """The last point of the shift curve: name -> `raw` and `sigma` of own answers, `text_raw` and `text_sigma` of
        the same text under other weights; empty if nothing was watched.
        """
        curve = self.card["shift"]["curve"]
        return {name: value for name, value in (curve[-1] if curve else {}).items() if name not in ("step", "part")}


def open_run(out: Path, manifest: Mapping[str, Any]) -> RunFolder:
    """The run's folder, to be used with `with`.

    Raises:
        RunError: there is an adapter in it that no run of mien has made.
    """
    if (out / _FILES[1]).exists() and not (out / "run" / "manifest.json").exists():
        raise RunError(f"{out} holds an adapter of something else; choose another --out.")
    return RunFolder(out, manifest)


def read_plan(run: RunFolder, name: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was decided when the run began, so that it goes on with the same; decided now if it was not.

    Raises:
        RunError: what was kept cannot be read.
    """
    path = run.work / f"{name}.json"
    if not path.exists():
        write_atomic(path, json.dumps(decide(), sort_keys=True, indent=1) + "\n")
    try:
        plan = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read; choose another --out, or delete the folder.") from error
    assert isinstance(plan, dict)
    return plan


def save_adapter(net: Any, model: Model, out: Path) -> None:
    """Put a PEFT model's adapter into `out`, each file whole or not at all.

    Raises:
        RunError: the disk refuses.
    """
    for left in out.glob(".adapter.*"):  # of a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    with disk_errors(out), tempfile.TemporaryDirectory(dir=out, prefix=".adapter.") as scratch:
        net.save_pretrained(scratch)
        config = json.loads((Path(scratch) / _FILES[1]).read_text("utf-8"))
        config["base_model_name_or_path"] = model.info.id
        weights = (Path(scratch) / _FILES[0]).read_bytes()
    write_atomic(out / _FILES[0], weights)
    write_atomic(out / _FILES[1], canonical(config))


def write_card(out: Path, card: Mapping[str, Any]) -> None:
    """Finish a run: the card, which is written last, and no checkpoints any more.

    Raises:
        RunError: the disk refuses.
    """
    write_atomic(out / CARD_FILE, canonical(card))
    shutil.rmtree(out / "run" / "checkpoints", ignore_errors=True)


def load_result(folder: str | Path) -> TrainResult:
    """A finished run.

    Raises:
        FormatError: the card is missing or corrupt, or is none of an adapter.
    """
    path = Path(folder) / CARD_FILE
    try:
        card = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read as an adapter's card: {error}.") from error
    if not isinstance(card, dict) or card.get("kind") != "adapter":
        raise FormatError(f"{path} is not the card of an adapter that mien trained.")
    return TrainResult(Path(folder), card)


def fingerprint_of(direction: Direction) -> str:
    """Names a direction by its numbers; sixteen hex digits."""
    return hashlib.sha256(direction.vector.numpy().tobytes()).hexdigest()[:16]


def training_versions() -> dict[str, str]:
    """Versions of what the weights depend on."""
    names = ("mien", "torch", "transformers", "trl", "peft", "datasets", "numpy")
    return {name: metadata.version(name) for name in names}
