"""A loaded model lent out and given back as it was: modes, gradient flags, patched methods, ids in its config.

Training libraries change the model they are given in many small ways. This file does not know what they do with it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mien.errors import InputError
from mien.models import Model, check_base, put_adapter, wrap

_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
_PATCHED = ("forward", "_original_forward")
"""Attributes that trl and accelerate set on the model itself, over its class's own method."""


@contextlib.contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """While inside, every part of `net` is in eval mode; afterwards each in the mode that it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _hooks_kept(net: nn.Module) -> Iterator[None]:
    """Hooks that others put on meanwhile, and have lost the handles of, are taken off."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    before = [(getattr(module, kind), set(getattr(module, kind))) for module in net.modules() for kind in kinds]
    try:
        yield
    finally:
        for hooks, known in before:
            for key in set(hooks) - known:
                del hooks[key]


@contextlib.contextmanager
def borrowed(model: Model) -> Iterator[Any]:
    """While inside, `model.net` may be put under adapters and trained on; it comes back as it was, and so do the random
    streams. What is given is a list: PEFT models appended to it are taken off the net at the end.

    Raises:
        InputError: the model carries an adapter already.
    """
    net: Any = model.net
    if hasattr(net, "peft_config"):
        raise InputError(f"{model.info.id} carries an adapter already; merge it into the model first, or load without.")
    flags = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    owners = [o for o in (net.config, net.config.get_text_config(), getattr(net, "generation_config", None)) if o]
    ids = [(owner, name, getattr(owner, name)) for owner in owners for name in _IDS if hasattr(owner, name)]
    patched = {name: net.__dict__[name] for name in _PATCHED if name in net.__dict__}
    use_cache = getattr(net.config, "use_cache", None)
    streams = (random.getstate(), np.random.get_state(), torch.random.get_rng_state())
    on_top: list[Any] = []
    try:
        with still(net), _hooks_kept(net):
            yield on_top
    finally:
        for name in _PATCHED:
            net.__dict__.pop(name, None)
        net.__dict__.update(patched)
        for adapted_net in reversed(on_top):
            adapted_net.unload()
        net.__dict__.pop("peft_config", None)
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted)
            parameter.grad = None
        for owner, name, value in ids:
            setattr(owner, name, value)
        if use_cache is not None:
            net.config.use_cache = use_cache
        random.setstate(streams[0])
        np.random.set_state(streams[1])
        torch.random.set_rng_state(streams[2])


@contextlib.contextmanager
def adapted(model: Model, adapter: str | Path) -> Iterator[Model]:
    """While inside, the model with a PEFT adapter on; the weights are shared, and `model` itself is adapted too.

    Raises:
        MissingExtraError: PEFT is not installed.
        ModelError: the adapter cannot be read, or does not fit.
        FingerprintError: the adapter's card says that it was trained on another model.
        InputError: the model carries an adapter already.
    """
    check_base(adapter, model.info.id, model.info.fingerprint)
    with borrowed(model) as on_top:
        net = put_adapter(model.net, str(adapter))
        on_top.append(net)
        yield wrap(net, model.chat.tokenizer, f"{model.info.id}+{Path(adapter).name}")
