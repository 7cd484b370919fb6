"""The model's own answers to the prompts of a data set, one a prompt, written once and kept in an SQLite file.

A prompt's answer depends on the prompt alone (its random stream is seeded by it), and a batch that was begun is gone
on with as it was, so that a run that was stopped ends with the same answers. What other runs have written for the same
prompts is taken from mien's cache. This file does not know traits.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mien.dose import seed_of
from mien.errors import RunError
from mien.records import Conversation, Engine, Message, Sampling, WriteRequest
from mien.screening.shared import SharedAnswers

_ELSEWHERE = -1
"""Part of answers that another run has written: they are in no batch of this one."""


def prompt_key(prompt_ids: Sequence[int]) -> str:
    """Names a prompt by its ids."""
    return hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()[:32]


class AnswerBook:
    """The answers of one run. Its model and how answers are drawn are the run's own; close it when done.

    Args:
        path: the run's own file.
        shared: answers of other runs by the same model, drawn in the same way.

    Raises:
        RunError: the file is corrupt, or the disk refuses; so do all methods.
    """

    def __init__(self, path: Path, shared: SharedAnswers | None = None) -> None:
        self._path, self._shared = path, shared
        with self._errors():
            self._db = sqlite3.connect(path)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(prompt TEXT PRIMARY KEY, text TEXT NOT NULL, part INTEGER NOT NULL)"
            )

    def close(self) -> None:
        """Let go of the files."""
        self._db.close()
        if self._shared is not None:
            self._shared.close()

    def get(self, keys: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Answers that are there, each with the part of the data for which it was written."""
        found: dict[str, tuple[str, int]] = {}
        with self._errors():
            for start in range(0, len(keys), 500):
                some = list(keys[start : start + 500])
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"SELECT prompt, text, part FROM answers WHERE prompt IN ({marks})", some)  # noqa: S608
                found |= {key: (text, part) for key, text, part in rows}
        return found

    def put(self, answers: Mapping[str, str], part: int) -> None:
        """Keep a batch of answers, all or none."""
        whole = {key: text.encode("utf-8", "replace").decode() for key, text in answers.items()}
        self._keep(whole, part)
        if self._shared is not None:
            self._shared.put(whole)

    def borrow(self, keys: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Answers that other runs have written, from now on in this run's file, too: a run that is taken up again must
        find what it began with.
        """
        found = self._shared.get(keys) if self._shared is not None and keys else {}
        if found:
            self._keep(found, _ELSEWHERE)
        return {key: (text, _ELSEWHERE) for key, text in found.items()}

    def _keep(self, answers: Mapping[str, str], part: int) -> None:
        rows = [(key, text, part) for key, text in answers.items()]
        with self._errors(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(
                f"The answers in {self._path} cannot be read or written ({error}); free some space, or delete the "
                f"run's folder and start again."
            ) from error


def write_answers(
    engine: Engine, prompts: Mapping[str, Conversation], sampling: Sampling, seed: int, part: int, book: AnswerBook
) -> tuple[dict[str, str], int]:
    """The model's answer to each prompt, from the book or written now; and how many tokens were written.

    Args:
        prompts: key -> conversation that ends with the user's message.
        part: number of the part of the data that the prompts belong to.
    """
    known = book.get(list(prompts))
    known |= book.borrow([key for key in prompts if key not in known])
    mine = {key: talk for key, talk in prompts.items() if key not in known or known[key][1] == part}
    done = frozenset(key for key in mine if key in known)
    requests = [WriteRequest(key, talk, seed_of(seed, key)) for key, talk in mine.items()]
    texts = {key: text for key, (text, _) in known.items()}
    tokens = 0
    for batch in engine.write(requests, sampling, read=False, done=done):
        written = {rollout.id: rollout.text for rollout, _ in batch}
        tokens += sum(len(rollout.response_ids) for rollout, _ in batch)
        book.put(written, part)
        texts |= written
    return texts, tokens


def answered(conversation: Conversation, place: int, text: str) -> Conversation:
    """The conversation up to the answer at `place`, with another one there."""
    return (*conversation[:place], Message("assistant", text))
