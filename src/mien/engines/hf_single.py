"""Linear layers given one token, on a CPU in bfloat16: a matrix times a vector instead of the product for many tokens.

That product costs as much for one token as for sixteen. Both add up in float32 and round once, so they differ by that
rounding at most. This file does not know passes, caches or requests.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from mien.machine import vectors_pay


class SingleTokens:
    """Plain linear layers of a model, made fast for one token; none where the machine gains nothing by it.

    Args:
        net: what has the layers. Those with a bias stay, for it would be added after rounding.
    """

    def __init__(self, net: torch.nn.Module) -> None:
        plain = [m for m in net.modules() if type(m) is torch.nn.Linear and _fit(m)]
        self._layers = plain if plain and vectors_pay() else []
        for layer in self._layers:
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]

    def remove(self) -> None:
        """Give the layers their own forward back."""
        for layer in self._layers:
            del layer.forward
        self._layers = []


def _fit(layer: torch.nn.Linear) -> bool:
    weight = layer.weight
    mine = "forward" not in vars(layer)  # others replace it to move weights between devices
    return mine and layer.bias is None and weight.device.type == "cpu" and weight.dtype == torch.bfloat16


def _forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """`[..., d]` to `[..., o]`."""
    if x.numel() != layer.in_features:
        return functional.linear(x, layer.weight)
    return torch.mv(layer.weight, x.reshape(-1)).view(*x.shape[:-1], -1)
