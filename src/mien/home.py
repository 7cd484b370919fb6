"""Where things are kept: directions, found by name under `$MIEN_HOME/directions/MODEL/NAME`, and what can be made again
under `$MIEN_CACHE`. Does not know what is in them.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from mien.errors import InputError, RunError


def home() -> Path:
    """`$MIEN_HOME`, else `~/.local/share/mien`."""
    return Path(os.environ.get("MIEN_HOME") or Path.home() / ".local" / "share" / "mien").expanduser()


def cache_dir() -> Path:
    """Where converted models and measurements are kept: `$MIEN_CACHE`, else `~/.cache/mien`."""
    path = Path(os.environ.get("MIEN_CACHE") or Path.home() / ".cache" / "mien").expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"The cache folder {path} cannot be made ({error.strerror}); set MIEN_CACHE to another."
        ) from error
    return path


def model_slug(model_id: str) -> str:
    """A model's id as a folder name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", model_id).strip("-.") or "model"


def folder_for(model_id: str, name: str) -> Path:
    """Where the direction `name` of a model is kept when no other folder is asked for."""
    return home() / "directions" / model_slug(model_id) / name


def kept_directions(model_id: str) -> dict[str, Path]:
    """Name -> folder of every direction kept for a model."""
    base = home() / "directions" / model_slug(model_id)
    cards = sorted(base.glob("*/card.json")) if base.is_dir() else []
    return {card.parent.name: card.parent for card in cards}


def find_direction(name_or_folder: str, model_id: str) -> Path:
    """Folder of a direction given by a folder or by the name it was extracted under.

    Raises:
        InputError: there is none; the message says how to make it.
    """
    try:
        path = Path(name_or_folder).expanduser()
        there, is_folder = (path / "card.json").is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~nobody, a NUL
        raise InputError(f"{name_or_folder[:60]!r} can be neither a direction's name nor a folder.") from error
    if there:
        return path
    kept = kept_directions(model_id)
    if name_or_folder in kept:
        return kept[name_or_folder]
    if is_folder:
        raise InputError(f"The folder {name_or_folder} holds no card.json, so it is not a direction.")
    known = f" Known for it: {', '.join(kept)}." if kept else ""
    library = resources.files("mien") / "library" / "traits"
    ours = name_or_folder.isidentifier() and (library / f"{name_or_folder}.yaml").is_file()
    what = f"--spec {name_or_folder}" if ours else f'"one sentence about it" --name {name_or_folder}'
    make = "axis" if name_or_folder == "assistant" else f"extract {what}"
    raise InputError(
        f"There is no direction {name_or_folder!r} for {model_id}; make it with: mien {make} --model {model_id}.{known}"
    )


def hold_folder(model_id: str, name: str) -> Path:
    """Where the hold `name` of a model is kept when no other folder is asked for."""
    return home() / "holds" / model_slug(model_id) / name
