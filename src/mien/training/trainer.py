"""The trainer: trl's SFTTrainer over rows that are tokenised already, under LoRA; and the KL alternative's loss.

This file does not know what the rows say, nor what is watched while they are learnt.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mien.errors import InputError, MissingExtraError, ModelError
from mien.machine import quiet_libraries
from mien.models import Model
from mien.training.borrowed import still
from mien.training.rows import IGNORED, Row, collate
from mien.training.sizes import Sizes

EXTRA = ("trl", "peft", "datasets")
_WARMUP = 5
"""Steps (Persona Vectors' recipe), or a quarter of a shorter run."""
_WEIGHT_DECAY = 0.01


def require_extra() -> None:
    """Raises: MissingExtraError: what training needs is not installed; the message has the command."""
    lacking = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        raise MissingExtraError(f"Training needs {', '.join(lacking)}: pip install 'mien[train]'.")


def require_precision(model: Model) -> None:
    """Raises: InputError: the model is in a precision in which small updates are lost or overflow."""
    if model.info.dtype == "float16":
        raise InputError("Training in float16 overflows; load the model with --dtype float32 or bfloat16.")


def _module(name: str) -> Any:
    """A library without types."""
    return importlib.import_module(name)


@dataclass(frozen=True)
class Recipe:
    """What one training is made of; the same recipe on the same rows gives the same weights."""

    epochs: float
    rate: float
    batch: int
    """Rows in a step."""
    sizes: Sizes
    seed: int
    every: int
    """Steps from one checkpoint, and one look at the shift, to the next."""
    kl: float = 0.0
    """Weight of the KL divergence from the model without adapter; 0: none."""


def steps_of(rows: int, recipe: Recipe) -> int:
    """Steps of a whole training."""
    passes = math.ceil(rows / recipe.sizes.rows)
    return max(1, math.ceil(math.ceil(passes / recipe.sizes.passes) * recipe.epochs))


def lora(rank: int, alpha: int) -> Any:
    """Rank-stabilised LoRA on all linear projections but the head (Persona Vectors' recipe)."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=True, target_modules="all-linear", lora_dropout=0.0, bias="none",
        task_type="CAUSAL_LM",
    )  # fmt: skip


def fresh_adapter(model: Model, rank: int, alpha: int, seed: int) -> Any:
    """The model under a new adapter, which does nothing yet.

    Raises:
        ModelError: the model has no projections that LoRA can go on.
    """
    from peft import get_peft_model

    net: Any = model.net
    torch.manual_seed(seed)
    try:
        with quiet_libraries():
            return get_peft_model(net, lora(rank, alpha))
    except ValueError as error:
        raise ModelError(f"LoRA cannot be put on {model.info.id}: {str(error).splitlines()[0][:200]}") from error


def trainer_for(net: Any, model: Model, rows: Sequence[Row], recipe: Recipe, folder: Path, callbacks: list[Any]) -> Any:
    """trl's trainer for `net`, the PEFT model on `model`'s; checkpoints go to `folder`."""
    from transformers import PrinterCallback

    items = [{"input_ids": list(row.ids), "labels": list(row.labels)} for row in rows]
    with quiet_libraries():
        trainer = _response_trainer()(
            model=net, args=arguments(model, len(rows), recipe, folder), train_dataset=dataset(items),
            data_collator=partial(collate, pad_id=model.pad_id), processing_class=model.chat.tokenizer,
            callbacks=callbacks,
        )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.kl_weight = recipe.kl
    return trainer


def dataset(items: list[dict[str, Any]]) -> Any:
    """Items as trainers want them."""
    return _module("datasets").Dataset.from_list(items)


def arguments(model: Model, rows: int, recipe: Recipe, folder: Path, **more: Any) -> Any:
    """What a trainer is told about a recipe on so many rows."""
    trl = _module("trl")
    cuda = model.device.type == "cuda"
    steps = steps_of(rows, recipe)
    return trl.SFTConfig(
        output_dir=str(folder), num_train_epochs=recipe.epochs, learning_rate=recipe.rate,
        per_device_train_batch_size=recipe.sizes.rows, gradient_accumulation_steps=recipe.sizes.passes,
        lr_scheduler_type="linear", warmup_steps=min(_WARMUP, steps // 4), weight_decay=_WEIGHT_DECAY,
        optim="adamw_torch", seed=recipe.seed, data_seed=recipe.seed,
        bf16=cuda and model.info.dtype == "float32" and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=recipe.sizes.checkpointing, logging_steps=1, logging_nan_inf_filter=False,
        save_strategy="steps", save_steps=recipe.every, save_total_limit=2,
        report_to="none", disable_tqdm=True, dataloader_pin_memory=cuda, use_cpu=model.device.type == "cpu",
        max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, **more,
    )  # fmt: skip


def _response_trainer() -> Any:
    """SFTTrainer with the KL alternative's loss, and without model cards in checkpoints."""
    base: Any = _module("trl").SFTTrainer

    class ResponseTrainer(base):  # type: ignore[misc]
        kl_weight = 0.0

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """A checkpoint is nobody's to read."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not self.kl_weight:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            nll, divergence, count = kl_terms(model, self.accelerator.unwrap_model(model), inputs)
            self._metrics["train"]["kl"].append(float(divergence) / max(count, 1))
            return (nll + self.kl_weight * divergence) / (count if num_items_in_batch is None else num_items_in_batch)

    return ResponseTrainer


def kl_terms(run: Any, net: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums over the tokens that carry loss: `-log p(token)`, and `KL(base || tuned)` in nats; and how many they are.

    Args:
        run: what is called, `net` or its wrapper.
        net: the PEFT model; with its adapter off, in eval mode, it is the base model.
        inputs: `input_ids`, `attention_mask`, `labels`, each `[b, s]`.
    """
    wanted = inputs["labels"][:, 1:]
    learnt = wanted != IGNORED
    feed = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
    logits = run(**feed).logits[:, :-1][learnt].float().log_softmax(-1)
    with torch.no_grad(), still(net), net.disable_adapter():
        base = net(**feed).logits[:, :-1][learnt].float().log_softmax(-1)
    nll = -logits.gather(1, wanted[learnt][:, None]).sum()
    divergence = torch.nn.functional.kl_div(logits, base, log_target=True, reduction="sum")
    return nll, divergence, int(learnt.sum())


def run_training(trainer: Any, folder: Path) -> None:
    """Train, from the last whole checkpoint in `folder` if there is one."""
    with quiet_libraries(), _given_back(trainer.model):
        checkpoint = last_checkpoint(folder)
        if checkpoint is None or not _taken_up(trainer, Path(checkpoint)):
            trainer.train(resume_from_checkpoint=checkpoint)


def _taken_up(trainer: Any, checkpoint: Path) -> bool:
    """Take a checkpoint up that has all steps behind it; False if it has not. The trainer would take one more step if
    they ended amid an epoch.
    """
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if not 0 < state.max_steps <= state.global_step:
        return False
    trainer.state = state
    trainer._load_from_checkpoint(str(checkpoint))
    tell = trainer.callback_handler
    tell.on_train_begin(trainer.args, state, trainer.control)
    tell.on_train_end(trainer.args, state, trainer.control)
    return True


@contextlib.contextmanager
def _given_back(net: Any) -> Iterator[None]:
    """Gradient checkpointing is left off."""
    try:
        yield
    finally:
        if getattr(net, "is_gradient_checkpointing", False):
            net.gradient_checkpointing_disable()


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; those that a killed process had begun are deleted.

    The trainer's state is the last file written into one.
    """
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text("utf-8"))
            whole.append((int(state["global_step"]), path))
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    return str(max(whole)[1]) if whole else None


def response_loss(model: Model, rows: Sequence[Row]) -> float:
    """Mean negative log-likelihood, nats per token, of what rows are learnt from, unsteered; nan without rows."""
    total, count = 0.0, 0
    with torch.inference_mode(), still(model.net):
        for row in rows:
            batch = collate([{"input_ids": list(row.ids), "labels": list(row.labels)}], model.pad_id)
            logits = model.net(input_ids=batch["input_ids"].to(model.device), use_cache=False).logits[0, :-1]
            wanted = batch["labels"][0, 1:].to(logits.device)
            learnt = wanted != IGNORED
            total += float(torch.nn.functional.cross_entropy(logits[learnt].float(), wanted[learnt], reduction="sum"))
            count += int(learnt.sum())
    return total / count if count else math.nan
