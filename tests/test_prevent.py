"""Preventative steering: what it does to a step, when it is on, and that nothing of it stays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import random_models as tiny
from mien.errors import FingerprintError, InputError
from mien.interventions import Add, Cap
from mien.models import Model, locate_blocks
from mien.training.prevent import PreventShift

IDS = torch.tensor([[5, 9, 12, 40, 7, 3], [8, 8, 30, 31, 2, 1]])
BATCH = {"input_ids": IDS, "labels": IDS, "attention_mask": torch.ones_like(IDS)}


@pytest.fixture
def model() -> Model:
    """One of its own for each test, which may be trained."""
    from mien.models import wrap

    return wrap(tiny.build("llama"), tiny.tokenizer(), "tiny-llama")


def logits(net: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = net(input_ids=ids, use_cache=False).logits
    return found


def lora(model: Model) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    return get_peft_model(model.net, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


class Items(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """A few rows for anybody's trainer."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.given = fails_at, 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        self.given += 1
        if self.fails_at is not None and self.given > self.fails_at:
            raise RuntimeError("the disk is gone")
        return {name: value[i % 2] for name, value in BATCH.items()}


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    wanted = {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "max_steps": 3, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False,
        "logging_steps": 1,
    }  # fmt: skip
    return TrainingArguments(**{**wanted, **changes})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_training_is_steered_and_evaluation_is_not(family: str) -> None:
    model = tiny.model_of(family)
    net, direction = copy.deepcopy(model.net), tiny.direction_of(model)
    plain, hooks = logits(net), tiny.hooks_on(net)
    act = Add(direction, 1.5, at=(1, 2))
    steered = torch.stack([tiny.naive_logits(net, ids.tolist(), 0, [act]) for ids in IDS])
    prevent = PreventShift(direction, 1.5, at=(1, 2))
    prevent.attach(net)
    torch.testing.assert_close(logits(net), plain, rtol=0, atol=0)
    for block in locate_blocks(net).modules:
        block.training = True  # alone, so that no dropout is
    torch.testing.assert_close(logits(net), steered, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(steered, plain, atol=1e-2)
    prevent.remove()
    assert tiny.hooks_on(net) == hooks


def test_several_directions_each_with_its_coef(model: Model) -> None:
    one, two = tiny.direction_of(model), tiny.direction_of(model, 1, recommended_layer=2)
    by_hand = tiny.naive_logits(model.net, IDS[0].tolist(), 0, [Add(one, 0.5), Add(two, -1.0)])
    prevent = PreventShift([one, two], [0.5, -1.0])
    prevent.attach(model.net)
    model.net.train()
    torch.testing.assert_close(logits(model.net)[0], by_hand, rtol=1e-4, atol=1e-4)


def test_strengths_may_change_on_the_way(model: Model) -> None:
    direction = tiny.direction_of(model)
    by_hand = tiny.naive_logits(model.net, IDS[0].tolist(), 0, [Add(direction, 2.0, at=(1, 2))])
    prevent = PreventShift(direction, 0.5, at=(1, 2))
    prevent.attach(model.net)
    hooks = tiny.hooks_on(model.net)
    prevent.set_coefs([2.0])
    model.net.train()
    torch.testing.assert_close(logits(model.net)[0], by_hand, rtol=1e-4, atol=1e-4)
    assert tiny.hooks_on(model.net) == hooks
    with pytest.raises(InputError, match="1 directions"):
        prevent.set_coefs([1.0, 2.0])


def test_two_lines_in_anybodys_trainer(model: Model, tmp_path: Path) -> None:
    hooks = tiny.hooks_on(model.net)
    trainer = Trainer(model.net, arguments(tmp_path, learning_rate=0.0), train_dataset=Items())
    trainer.add_callback(PreventShift(tiny.direction_of(model), coef=2.0))
    plain = model.net(**BATCH).loss.item()
    trainer.train()
    seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert tiny.hooks_on(model.net) == hooks
    assert model.net.eval()(**BATCH).loss.item() == pytest.approx(plain, abs=1e-6)
    steered = [tiny.naive_logits(model.net, ids.tolist(), 0, [Add(tiny.direction_of(model), 2.0)]) for ids in IDS]
    expected = torch.nn.functional.cross_entropy(torch.cat([rows[:-1] for rows in steered]), IDS[:, 1:].flatten())
    assert seen == pytest.approx([expected.item()] * 3, abs=1e-3)
    assert abs(expected.item() - plain) > 0.02


def test_evaluation_in_between_is_not_steered(model: Model, tmp_path: Path) -> None:
    plain = model.net(**BATCH).loss.item()
    changes = {"learning_rate": 0.0, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
    trainer = Trainer(model.net, arguments(tmp_path, **changes), train_dataset=Items(), eval_dataset=Items())
    trainer.add_callback(PreventShift(tiny.direction_of(model), coef=2.0))
    trainer.train()
    found = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert found == pytest.approx([plain] * 3, abs=1e-4)


def test_an_exception_leaves_nothing_behind(model: Model, tmp_path: Path) -> None:
    hooks, plain = tiny.hooks_on(model.net), logits(model.net)
    prevent = PreventShift(tiny.direction_of(model), coef=2.0)
    args = arguments(tmp_path, learning_rate=0.0)
    trainer = Trainer(model.net, args, train_dataset=Items(fails_at=5), callbacks=[prevent])
    with pytest.raises(RuntimeError, match="the disk is gone"):
        trainer.train()
    assert prevent.attached
    assert model.net.training
    torch.testing.assert_close(logits(model.net), plain, rtol=0, atol=0)
    assert not prevent.attached
    assert tiny.hooks_on(model.net) == hooks


def test_a_second_training_after_an_exception_is_steered_again(model: Model, tmp_path: Path) -> None:
    prevent, items = PreventShift(tiny.direction_of(model), coef=2.0), Items(fails_at=1)
    trainer = Trainer(model.net, arguments(tmp_path, learning_rate=0.0), train_dataset=items, callbacks=[prevent])
    with pytest.raises(RuntimeError):
        trainer.train()
    items.fails_at = None
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert abs(losses[-1] - model.net.eval()(**BATCH).loss.item()) > 0.02
    assert not prevent.attached


def gradients(net: Any) -> dict[str, torch.Tensor]:
    net.train()
    net.zero_grad()
    net(**BATCH, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(model: Model, reentrant: bool) -> None:
    net = lora(model)
    prevent = PreventShift(tiny.direction_of(model), coef=2.0)
    prevent.attach(net)
    wanted = gradients(net)
    net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    net.enable_input_require_grads()
    found = gradients(net)
    prevent.remove()
    unsteered = gradients(net)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(unsteered[name], gradient, atol=1e-4) for name, gradient in wanted.items())


def test_autocast(model: Model) -> None:
    prevent = PreventShift(tiny.direction_of(model), coef=2.0)
    prevent.attach(model.net)
    model.net.train()
    wanted = logits(model.net)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(model.net)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.15)


def test_checkpoints_hold_no_trace(model: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    kept = {}
    for name, callbacks in (("plain", []), ("prevented", [PreventShift(tiny.direction_of(model), coef=2.0)])):
        net = copy.deepcopy(model.net)
        args = arguments(tmp_path / name, save_strategy="steps", save_steps=3)
        Trainer(net, args, train_dataset=Items(), callbacks=callbacks).train()
        folder = tmp_path / name / "checkpoint-3"
        kept[name] = ({p.name for p in folder.iterdir()}, load_file(folder / "model.safetensors"))
        state = (folder / "trainer_state.json").read_text()
        assert "Prevent" not in state
    assert kept["plain"][0] == kept["prevented"][0]
    assert {k: v.shape for k, v in kept["plain"][1].items()} == {k: v.shape for k, v in kept["prevented"][1].items()}
    assert any(not torch.equal(v, kept["prevented"][1][k]) for k, v in kept["plain"][1].items())


def test_the_random_stream_and_modes_are_left_alone(model: Model) -> None:
    model.net.train()
    model.blocks.modules[0].eval()
    modes = [m.training for m in model.net.modules()]
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    PreventShift(tiny.direction_of(model)).attach(model.net)
    assert torch.equal(torch.rand(4), wanted)
    assert [m.training for m in model.net.modules()] == modes


def test_a_direction_of_the_model_under_the_adapter_fits(model: Model) -> None:
    direction = tiny.direction_of(model)
    net = lora(model)
    prevent = PreventShift(direction)
    prevent.attach(net)
    assert prevent.attached


def test_a_direction_of_another_model_is_refused(model: Model) -> None:
    hooks = tiny.hooks_on(model.net)
    other = tiny.direction_of(tiny.model_of("qwen2"))
    with pytest.raises(FingerprintError, match="extract it again"):
        PreventShift(other).attach(model.net)
    assert tiny.hooks_on(model.net) == hooks


def test_what_cannot_be_steered_with(model: Model) -> None:
    direction = tiny.direction_of(model)
    with pytest.raises(InputError, match="one coef for each"):
        PreventShift([direction, direction], [1.0])
    with pytest.raises(InputError, match="one coef for each"):
        PreventShift([])
    with pytest.raises(InputError, match="every token"):
        PreventShift(Cap(direction, low=0.0, tokens="response"))


class Counting(TrainerCallback):
    """How many hooks are on after each step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(len(tiny.hooks_on(model)))


def test_hooks_do_not_pile_up(model: Model, tmp_path: Path) -> None:
    counting = Counting()
    callbacks = [PreventShift(tiny.direction_of(model)), counting]
    Trainer(model.net, arguments(tmp_path), train_dataset=Items(), callbacks=callbacks).train()
    assert len(set(counting.seen)) == 1
