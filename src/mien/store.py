"""Run folders: what was asked (manifest), and everything that was written, as it happens.

A stage is a JSONL file, with readings beside it in one safetensors file a batch. A batch's readings are put in place
first and its lines appended after, so lines prove the batch: after `kill -9` a torn tail is cut off and the run goes on
with the same batches, ending in the same bytes. No file holds a clock time.

This file does not know what a trait or a model is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import FormatError, RunError
from mien.records import Message, Reading, Rollout

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")
"""Names under which files are written before they are moved into place, here and where directions are saved."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises: RunError: the disk is full, read-only, or not ours to write, instead of an OSError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}. What was written before is intact."
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Put a whole file in place, or nothing.

    Raises:
        RunError: the disk refuses.
    """
    content = _utf8(data) if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def canonical(value: Any) -> str:
    """JSON whose bytes depend on the value alone."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def short_hash(value: Any) -> str:
    """Sixteen hex digits that name a JSON-like value."""
    return hashlib.sha256(_utf8(canonical(value))).hexdigest()[:16]


def _utf8(text: str) -> bytes:
    """Half a surrogate pair, which UTF-8 cannot hold, becomes the escape that JSON and YAML have for it."""
    return text.encode("utf-8", "backslashreplace")


class Stage:
    """One JSONL file of a run and, where records have readings, a folder of safetensors beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        self._readings = folder / f"{name}.readings"
        self.records: list[dict[str, Any]] = self._recover()

    @property
    def done(self) -> frozenset[str]:
        """Ids of the records that are safe on disk."""
        return frozenset(str(r["id"]) for r in self.records)

    def append(self, records: Iterable[Mapping[str, Any]], readings: Mapping[str, Reading] | None = None) -> None:
        """Add one batch: all of it or, if the machine stops here, none of it.

        Raises:
            RunError: the disk refuses.
        """
        batch = [dict(r) for r in records]
        number = self.records[-1]["batch"] + 1 if self.records else 0
        if readings is not None:
            self._write_readings(number, readings)
        lines = [{**r, "batch": number, "of": len(batch)} for r in batch]
        text = "".join(json.dumps(r, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for r in lines)
        with disk_errors(self.path):
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                with self.path.open("ab") as file:
                    file.write(_utf8(text))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
                raise
        self.records += lines

    def readings(self) -> Iterator[Reading]:
        """Readings of all batches, in the order they were written; `mean` `[l, d]` float32."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for number in sorted({r["batch"] for r in self.records}):
            path = self._readings / f"{number:05d}.safetensors"
            records = [r for r in self.records if r["batch"] == number]
            try:
                arrays = load_file(path)
                rows = [(arrays["mean"][r["row"]], int(arrays["n_tokens"][r["row"]])) for r in records]
            except (OSError, SafetensorError, LookupError) as error:
                raise FormatError(
                    f"The readings {path} are missing or corrupt; delete the run folder and start again."
                ) from error
            for record, (mean, n_tokens) in zip(records, rows, strict=True):
                yield Reading(str(record["id"]), mean, n_tokens)

    def _write_readings(self, number: int, readings: Mapping[str, Reading]) -> None:
        from safetensors.numpy import save

        with disk_errors(self._readings):
            self._readings.mkdir(exist_ok=True)
        ordered = list(readings.values())
        data = save({
            "mean": np.stack([r.mean for r in ordered]).astype(np.float32),
            "n_tokens": np.array([r.n_tokens for r in ordered], dtype=np.int64),
        })  # fmt: skip
        write_atomic(self._readings / f"{number:05d}.safetensors", data)

    def _recover(self) -> list[dict[str, Any]]:
        """Read what is whole; cut a torn tail off the file."""
        if not self.path.exists():
            return []
        with disk_errors(self.path):
            data = self.path.read_bytes()
        records: list[dict[str, Any]] = []
        pending: list[dict[str, Any]] = []
        good = offset = 0
        for line in data.splitlines(keepends=True):
            offset += len(line)
            try:
                record = json.loads(line)
                pending.append(record)
                whole = line.endswith(b"\n") and len(pending) == int(record["of"])
            except (ValueError, KeyError, TypeError):
                break
            if whole:
                records += pending
                pending, good = [], offset
        if good < len(data):
            with disk_errors(self.path):
                os.truncate(self.path, good)
        return records


class RunFolder:
    """A folder that belongs to one run, described by its manifest. Open it with `with`: it is locked meanwhile."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.work = path / "run"
        self.manifest = json.loads(canonical(manifest))
        self._lock: Any = None

    def __enter__(self) -> RunFolder:
        with disk_errors(self.path):
            self.work.mkdir(parents=True, exist_ok=True)
            self._lock = (self.work / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunError(
                f"Another process is writing to {self.path}; wait for it or choose another --out."
            ) from error
        try:
            self._check_manifest()
            self._sweep()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def stage(self, name: str) -> Stage:
        """Open a stage, repairing what a sudden end left behind."""
        return Stage(self.work, name)

    def _check_manifest(self) -> None:
        path = self.work / "manifest.json"
        if not path.exists():
            write_atomic(path, canonical(self.manifest))
            return
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"The manifest {path} cannot be read; choose another --out.") from error
        if not isinstance(before, dict):
            raise RunError(f"The manifest {path} is not one that mien wrote; choose another --out.")
        if before != self.manifest:
            key, was, now = _difference(before, self.manifest)
            raise RunError(
                f"{self.path} holds another run ({key} was {_brief(was)}, is now {_brief(now)}): "
                f"choose another --out, or delete it."
            )

    def _sweep(self) -> None:
        """Take away what a process that was killed had begun to write; nobody else writes while we hold the lock."""
        with disk_errors(self.path):
            for path in [*self.path.glob(".*.tmp"), *self.work.rglob(".*.tmp")]:
                if _TEMPORARY.fullmatch(path.name) and path.is_file():
                    path.unlink(missing_ok=True)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The first key at which two different mappings differ, as deep as mappings go, and both values."""
    key = next(k for k in sorted({*before, *now}) if before.get(k) != now.get(k) or (k in before) != (k in now))
    was, new = before.get(key), now.get(key)
    if isinstance(was, dict) and isinstance(new, dict):
        inner, was, new = _difference(was, new)
        return f"{key}.{inner}", was, new
    return key, was, new


def _brief(value: Any) -> str:
    names = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    text = ", ".join(value) if names else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def rollout_record(rollout: Rollout) -> dict[str, Any]:
    """A rollout as JSON."""
    return {
        "id": rollout.id,
        "conversation": [{"role": m.role, "content": m.content} for m in rollout.conversation],
        "text": rollout.text,
        "prompt_ids": list(rollout.prompt_ids),
        "response_ids": list(rollout.response_ids),
        "logprob": rollout.logprob,
        "finish": rollout.finish,
    }


def rollout_of(record: Mapping[str, Any]) -> Rollout:
    """The rollout of a JSON record."""
    return Rollout(
        id=str(record["id"]),
        conversation=tuple(Message(m["role"], m["content"]) for m in record["conversation"]),
        text=str(record["text"]),
        prompt_ids=tuple(record["prompt_ids"]),
        response_ids=tuple(record["response_ids"]),
        logprob=record["logprob"],
        finish=record["finish"],
    )
