"""Preventative steering: directions added to the stream of every token while a model is trained, and never otherwise.

What the steering already does the weights need not learn (Persona Vectors, 2507.21509). `PreventShift` is a callback
for any transformers or trl trainer:

    trainer.add_callback(PreventShift(direction, coef=1.0))

This file does not know how strong the steering should be, nor what is trained on.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from mien.directions import Direction
from mien.errors import InputError
from mien.interventions import Add, Layers
from mien.models import Blocks, fingerprint, input_device, locate_blocks
from mien.records import Intervention, ModelInfo, Tokens
from mien.residual import edited, require_fit
from mien.training.borrowed import still


@dataclass(eq=False)
class WhileTraining:
    """An intervention that acts on a block only while that block is in training mode, so not in evaluation."""

    what: Intervention
    blocks: tuple[nn.Module, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        return self.what.layers

    @property
    def tokens(self) -> Tokens:
        return self.what.tokens

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        return self.what.edit(layer, h) if self.blocks[layer].training else h


class PreventShift(TrainerCallback):
    """Steers every token towards a trait during training, so that training need not.

    Hooks go on when training begins and come off when it ends. Evaluation in between is not steered, since hooks act
    only on blocks in training mode. Where training ends with an exception, the hooks come off at the model's next
    forward pass, before it does anything; `remove` takes them off at once. Checkpoints hold no trace of it. It works
    with PEFT, autocast and gradient checkpointing.

    Args:
        what: a direction, several, or interventions on all tokens as they are.
        coef: of directions, one for all or one each; 1.0 is the whole difference of means.
        at: layers of directions (default: the recommended one); on several, each adds its increment.

    Raises:
        InputError: nothing to steer with, as many coefs as there are not directions, or an intervention that is not on
            all tokens.
    """

    def __init__(
        self,
        what: Direction | Intervention | Sequence[Direction | Intervention],
        coef: float | Sequence[float] = 1.0,
        *,
        at: Layers = None,
    ) -> None:
        each = list(what) if isinstance(what, Sequence) else [what]
        coefs = [coef] * len(each) if isinstance(coef, int | float) else list(coef)
        if len(coefs) != len(each) or not each:
            raise InputError(f"PreventShift needs one coef for each direction, not {len(coefs)} for {len(each)}.")
        self.interventions: tuple[Intervention, ...] = tuple(
            Add(one, c, at=at) if isinstance(one, Direction) else one for one, c in zip(each, coefs, strict=True)
        )
        if any(one.tokens != "all" for one in self.interventions):
            raise InputError("Preventative steering acts on every token; leave the interventions' tokens at 'all'.")
        self._held: list[WhileTraining] = []
        self._on: contextlib.ExitStack | None = None
        self._loop: FrameType | None = None
        self._thread = 0

    @property
    def attached(self) -> bool:
        """Whether hooks are on a model."""
        return self._on is not None

    def attach(self, model: nn.Module) -> None:
        """Put the hooks on; what `on_train_begin` does, for training loops of one's own.

        Raises:
            ModelError: the model's blocks cannot be found.
            FingerprintError: a direction was made for another model than the one under the adapters.
        """
        self.remove()
        with still(model):
            blocks = locate_blocks(model)
        require_fit(self.interventions, _info(model, blocks))
        self._held = [WhileTraining(one, blocks.modules) for one in self.interventions]
        with contextlib.ExitStack() as stack:
            stack.enter_context(edited(blocks, [(one, None) for one in self._held]))
            stack.callback(blocks.backbone.register_forward_pre_hook(self._before).remove)
            self._on = stack.pop_all()

    def set_coefs(self, coefs: Sequence[float]) -> None:
        """Go on with other strengths, one for each direction; interventions that were given as they are keep theirs.

        Raises:
            InputError: not one coef for each.
        """
        if len(coefs) != len(self.interventions):
            raise InputError(f"There are {len(self.interventions)} directions to steer along, not {len(coefs)}.")
        self.interventions = tuple(
            Add(one.direction, coef, at=one.layers) if isinstance(one, Add) else one
            for one, coef in zip(self.interventions, coefs, strict=True)
        )
        for held, one in zip(self._held, self.interventions, strict=False):
            held.what = one

    def remove(self) -> None:
        """Take the hooks off; nothing if there are none."""
        if self._on is not None:
            self._on.close()
        self._on = self._loop = None
        self._held = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.attach(model)
        self._loop, self._thread = _caller(), threading.get_ident()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.remove()

    def _before(self, _module: nn.Module, _args: Any) -> None:
        """Trainers tell nobody that they ended with an exception; their frame's being gone from the stack does."""
        if self._loop is None or torch.compiler.is_compiling() or threading.get_ident() != self._thread:
            return
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame is self._loop:
                return
            frame = frame.f_back
        self.remove()


def _caller() -> FrameType | None:
    """The frame of the training loop: the first outside of this file and of the trainer's way of calling callbacks."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "transformers.trainer_callback"):
        frame = frame.f_back
    return frame


def _info(model: Any, blocks: Blocks) -> ModelInfo:
    """What a direction checks: the fingerprint is that of the model under any adapters."""
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    return ModelInfo(
        id=str(name),
        fingerprint=fingerprint(model, blocks, adapters=False),
        n_layers=len(blocks.modules),
        d_model=blocks.d_model,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device=str(input_device(model)),
        chat=True,
    )
