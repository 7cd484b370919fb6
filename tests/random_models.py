"""Tiny causal LMs of many families with random weights, made from their config, and a byte tokenizer made in code.

Weights are drawn wide (std 0.15), so that every block changes the stream visibly and greedy choices have no near-ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mien.card import Card
from mien.directions import Direction
from mien.models import Model, locate_blocks, wrap
from mien.records import Intervention

VOCAB = 272
PAD, BOS, EOS, IM_START, IM_END = "<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"
# Merges across which joined text would be tokenised otherwise than its parts.
MERGES = [("Ċ", "Ċ"), (":", "Ġ"), (".", "ĊĊ"), ("Ċ", "U"), ("i", "n"), ("h", "e"), ("ĊĊ", "U")]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2}
_SLIDING: dict[str, Any] = {**_GROUPED, "head_dim": 8, "sliding_window": 8}
_GPT: dict[str, Any] = {k: v for k, v in _SIZES.items() if k != "intermediate_size"}


def _alternating(n: int) -> list[str]:
    return ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(n)]


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**_GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(**_SLIDING, query_pre_attn_scalar=8),
    "gemma3": lambda: hf.Gemma3TextConfig(**_SLIDING, query_pre_attn_scalar=8, layer_types=_alternating(4)),
    "mistral": lambda: hf.MistralConfig(**_SLIDING),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=4, n_head=4, n_positions=256, initializer_range=0.15,
        bos_token_id=None, eos_token_id=None,
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_SIZES),
    "mpt": lambda: hf.MptConfig(
        vocab_size=VOCAB, d_model=32, n_layers=4, n_heads=4, max_seq_len=256, initializer_range=0.15
    ),
    "olmo": lambda: hf.OlmoConfig(**_GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**_GROUPED),
    "phi": lambda: hf.PhiConfig(**_SIZES),
    "phi3": lambda: hf.Phi3Config(**_GROUPED),
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **_GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "gpt_oss": lambda: hf.GptOssConfig(
        **_SLIDING, num_local_experts=4, num_experts_per_tok=2, layer_types=_alternating(4), rope_scaling=None
    ),
}  # fmt: skip


def build(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random causal LM of a family, float32, on the CPU, in eval mode."""
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    return from_config(config, seed)


def from_config(config: Any, seed: int = 0, kind: Any = hf.AutoModelForCausalLM) -> Any:
    """A random model of a config. The caller's random stream is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = kind.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # norms and biases too, so that leaving one out would show
            for parameter in net.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def tokenizer(template: str | None = CHATML, bos: bool = False) -> Any:
    """Bytes, a few merges and five special tokens; `template=None` is a base model's.

    Args:
        template: chat template.
        bos: put beginning-of-text before text on its own, as Llama's tokenizer does.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(t, special=True) for t in (PAD, BOS, EOS, IM_START, IM_END)])
    if bos:
        from tokenizers.processors import TemplateProcessing

        inner.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, inner.token_to_id(BOS))])
    made = hf.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, bos_token=BOS, eos_token=EOS)
    made.chat_template = template
    return made


@cache
def net_of(family: str) -> Any:
    """The family's model, built once; nobody may change it."""
    return build(family)


def model_of(family: str = "llama", template: str | None = CHATML) -> Model:
    """The family's model with a tokenizer, ready for mien."""
    return wrap(net_of(family), tokenizer(template), f"tiny-{family}")


class Chained:
    """While inside, the net says `then` after `now` (ids), with a logit bonus: answers that come to certain words.

    It stands outside of mien: a hook on the whole net that adds to its logits.
    """

    def __init__(self, net: Any, pairs: Sequence[tuple[int, int]], bonus: float = 60.0) -> None:
        self._net, self._bonus = net, bonus
        self._next = torch.full((VOCAB,), -1)
        for now, then in pairs:
            self._next[now] = then

    def __enter__(self) -> None:
        self._handle = self._net.register_forward_hook(self._hook, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _hook(self, _module: Any, _args: Any, kwargs: Any, output: Any) -> Any:
        wanted = self._next[kwargs["input_ids"][:, -output.logits.shape[1] :]]
        extra = torch.zeros_like(output.logits)
        extra.scatter_(2, wanted.clamp(min=0)[..., None], (wanted >= 0).float()[..., None] * self._bonus)
        output.logits = output.logits + extra
        return output


def hooks_on(net: torch.nn.Module) -> list[tuple[str, int]]:
    """Every hook on every module, by name and id: what must be the same before and after."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [(f"{name}.{kind}", key) for name, m in net.named_modules() for kind in kinds for key in getattr(m, kind)]


def direction_of(model: Model, seed: int = 0, scale: float = 1.0, **changes: Any) -> Direction:
    """A random direction for a model, of length about `scale` at every layer."""
    shape = (model.n_layers, model.info.d_model)
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale / shape[1] ** 0.5
    card = {
        "kind": "imported", "name": f"random-{seed}", "description": "random", "sign": "larger is more of it",
        "model": model.info.id, "fingerprint": model.info.fingerprint, "recommended_layer": 1,
    }  # fmt: skip
    return Direction(vector, Card(**{**card, "n_layers": shape[0], "d_model": shape[1], **changes}))


def naive_logits(net: Any, ids: Sequence[int], prompt: int, interventions: Sequence[Intervention] = ()) -> torch.Tensor:
    """`[s, v]` logits of one text: no cache, no padding, no batch, each block's output edited by hand.

    The prompt are the first `prompt` positions. The edits' maths is taken as given; where they act is worked out here.
    """
    blocks = locate_blocks(net).modules

    def hook(layer: int) -> Any:
        def act(_module: Any, _args: Any, output: Any) -> Any:
            h = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            for each in interventions:
                where = {"all": slice(None), "prompt": slice(0, prompt), "response": slice(prompt, None)}[each.tokens]
                if layer in each.layers:
                    h[0, where] = each.edit(layer, h[0, where])
            return h if isinstance(output, torch.Tensor) else (h, *output[1:])

        return act

    handles = [block.register_forward_hook(hook(k)) for k, block in enumerate(blocks)]
    try:
        with torch.no_grad():
            logits: torch.Tensor = net(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits


def naive_greedy(net: Any, prompt: Sequence[int], n: int, interventions: Sequence[Intervention] = ()) -> list[int]:
    """`n` likeliest tokens, each from a full forward pass over everything so far."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(naive_logits(net, ids, len(prompt), interventions)[-1].argmax()))
    return ids[len(prompt) :]
