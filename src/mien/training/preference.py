"""Learning to prefer one answer to another: direct preference optimisation (DPO, 2305.18290) over tokenised pairs.

    loss = -log sigmoid(beta * [(log p(chosen) - log p_base(chosen)) - (log p(rejected) - log p_base(rejected))])

The base model's log-probabilities never change, so they are taken once, before. This file does not know where pairs
come from, nor what is watched while they are learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mien.engines.hf import HfEngine
from mien.machine import quiet_libraries
from mien.models import Model
from mien.records import Conversation, ScoreRequest
from mien.training.rows import IGNORED, Row, collate
from mien.training.trainer import Recipe, arguments, dataset

BETA = 0.1


@dataclass(frozen=True)
class Pair:
    """Two answers to one conversation."""

    conversation: Conversation
    chosen: str
    rejected: str


def pair_rows(model: Model, pairs: Sequence[Pair], max_length: int) -> list[tuple[Row, Row]]:
    """Both sides of each pair as rows; pairs of which a side is empty or does not fit are left out."""
    end, found = model.chat.end_ids(), []
    for number, pair in enumerate(pairs):
        prompt = model.chat.prompt_ids(pair.conversation)
        answers = [model.chat.response_ids(text) for text in (pair.chosen, pair.rejected)]
        if any(not ids or len(prompt) + len(ids) + len(end) > max_length for ids in answers):
            continue
        chosen, rejected = (
            Row((*prompt, *ids, *end), (*[IGNORED] * len(prompt), *ids, *end), number) for ids in answers
        )
        found.append((chosen, rejected))
    return found


def base_logprobs(model: Model, pairs: Sequence[Pair], rows: Sequence[tuple[Row, Row]]) -> list[tuple[float, float]]:
    """`log p_base` of each pair's two sides, nats, summed over the tokens that carry loss."""
    requests = []
    for pair in rows:
        for row in pair:
            learnt = tuple(label for label in row.labels if label != IGNORED)
            requests.append(ScoreRequest(pairs[row.sample].conversation, "", response_ids=learnt))
    sums = [float(values.sum()) for values in HfEngine(model).logprobs(requests)]
    return list(zip(sums[::2], sums[1::2], strict=True))


def collate_pairs(features: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of `2 b` rows, the chosen first, and `base` `[b, 2]`."""
    sides = [
        {"input_ids": feature[f"{side}_ids"], "labels": feature[f"{side}_labels"]}
        for side in ("chosen", "rejected")
        for feature in features
    ]
    base = torch.tensor([[feature["chosen_base"], feature["rejected_base"]] for feature in features])
    return {**collate(sides, pad_id), "base": base}


def sequence_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`[b]`: log-probability of each row's labelled tokens, from logits `[b, s, v]` and labels `[b, s]`."""
    wanted = labels[:, 1:]
    learnt = wanted != IGNORED
    chosen = logits[:, :-1].float().log_softmax(-1).gather(2, wanted.clamp(min=0)[..., None])[..., 0]
    return (chosen * learnt).sum(1)


def preference_loss(logprobs: torch.Tensor, base: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The DPO loss of a batch, and the share of its pairs that are told apart the right way.

    Args:
        logprobs: `[2 b]` under the model as it is, the chosen first.
        base: `[b, 2]` under the base model, chosen and rejected.
        beta: how dearly leaving the base model is paid for.
    """
    chosen, rejected = logprobs.chunk(2)
    margin = (chosen - base[:, 0]) - (rejected - base[:, 1])
    return -torch.nn.functional.logsigmoid(beta * margin).mean(), (margin > 0).float().mean()


def pair_trainer(
    net: Any, model: Model, rows: Sequence[tuple[Row, Row]], base: Sequence[tuple[float, float]], recipe: Recipe,
    folder: Path, callbacks: list[Any], beta: float = BETA,
) -> Any:  # fmt: skip
    """A trainer for `net`, the PEFT model on `model`'s; checkpoints go to `folder`."""
    from transformers import PrinterCallback, Trainer

    class PairTrainer(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).logits
            loss, _ = preference_loss(sequence_logprobs(logits, inputs["labels"]), inputs["base"], beta)
            return loss

    items = [
        {
            "chosen_ids": list(chosen.ids), "chosen_labels": list(chosen.labels), "chosen_base": ours,
            "rejected_ids": list(rejected.ids), "rejected_labels": list(rejected.labels), "rejected_base": theirs,
        }
        for (chosen, rejected), (ours, theirs) in zip(rows, base, strict=True)
    ]  # fmt: skip
    with quiet_libraries():
        trainer: Any = PairTrainer(
            model=net, args=arguments(model, len(rows), recipe, folder, remove_unused_columns=False),
            train_dataset=dataset(items), data_collator=partial(collate_pairs, pad_id=model.pad_id),
            callbacks=callbacks,
        )  # fmt: skip
    # The loss is a mean over pairs, so each pass of a step counts for its share of it.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    return trainer
