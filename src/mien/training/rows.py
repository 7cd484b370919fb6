"""Conversations as rows of ids to train on, with the loss on what the assistant says and nowhere else.

Every answer stands after exactly the ids that its conversation has when the model is asked (`Chat.prompt_ids`), is
tokenised apart from them, and is closed by the ids that end an answer, so that the model learns to stop. This file does
not know how chat templates look, nor any trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mien.chat import Chat
from mien.errors import InputError
from mien.records import Conversation, Message

IGNORED = -100
"""Label of what carries no loss, by torch's convention."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to train on."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The same ids where the loss is, `IGNORED` elsewhere."""
    sample: int
    """Which conversation it is of."""

    @property
    def learnt(self) -> int:
        """How many tokens carry loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Rows:
    """What of the conversations can be trained on."""

    rows: tuple[Row, ...]
    cut: int
    """Rows whose end did not fit."""
    left_out: dict[str, int]
    """Why answers were left out: reason -> count."""

    @property
    def learnt(self) -> int:
        """How many tokens carry loss."""
        return sum(row.learnt for row in self.rows)


def rows_of(
    chat: Chat, conversations: Iterable[Conversation], *, max_length: int, system: str | None = None
) -> Rows:  # fmt: skip
    """Rows of conversations: one for each, where the model's template goes on from an answer as it stood, else one for
    each answer.

    Args:
        chat: the model's way of writing conversations down.
        conversations: with at least one answer each; others give no rows.
        max_length: longest row, in ids; what is longer loses its end.
        system: text put before each conversation as, or before, its system prompt.
    """
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    cut = 0
    for number, conversation in enumerate(conversations):
        told = with_system(conversation, system) if system else conversation
        found, reasons = _answers(chat, told, number)
        left_out.update(reasons)
        for row in found:
            short = Row(row.ids[:max_length], row.labels[:max_length], number)
            if not short.learnt:
                left_out["its answer begins beyond the longest row"] += 1
                continue
            cut += len(row.ids) > max_length
            rows.append(short)
    return Rows(tuple(rows), cut, dict(sorted(left_out.items())))


def _answers(chat: Chat, conversation: Conversation, number: int) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    reasons: list[str] = []
    end = chat.end_ids()
    for place, message in enumerate(conversation):
        if message.role != "assistant":
            continue
        answer = chat.response_ids(message.content)
        if not answer:
            reasons.append("the answer is empty")
            continue
        try:
            before = chat.prompt_ids(conversation[:place])
        except InputError:
            reasons.append("it answers nothing, or the model's template refuses what comes before it")
            continue
        last = rows[-1] if rows else Row((), (), number)
        if rows and before[: len(last.ids)] == last.ids:
            rows.pop()
        else:
            last = Row((), (), number)
        gap = len(before) - len(last.ids)
        labels = (*last.labels, *[IGNORED] * gap, *answer, *end)
        rows.append(Row((*before, *answer, *end), labels, number))
    return rows, reasons


def with_system(conversation: Conversation, text: str) -> Conversation:
    """The conversation under a system prompt that begins with `text`."""
    if conversation and conversation[0].role == "system":
        return (Message("system", f"{text}\n\n{conversation[0].content}"), *conversation[1:])
    return (Message("system", text), *conversation)


def collate(features: Sequence[dict[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch, padded on the right: `input_ids`, `attention_mask`, `labels`, each `[b, s]`."""
    width = max(len(feature["input_ids"]) for feature in features)
    ids = torch.full((len(features), width), pad_id)
    labels = torch.full((len(features), width), IGNORED)
    mask = torch.zeros(len(features), width, dtype=torch.long)
    for i, feature in enumerate(features):
        length = len(feature["input_ids"])
        ids[i, :length] = torch.tensor(feature["input_ids"], dtype=torch.long)
        labels[i, :length] = torch.tensor(feature["labels"], dtype=torch.long)
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
