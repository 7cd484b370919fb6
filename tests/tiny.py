"""A tiny chat model made in code: four layers of width 48, one token a byte. It downloads nothing and loads at once.

`taught_net()` has learnt one trait: told to shout it answers in capitals, told to whisper in small letters, told both
it does what it was told last, and told nothing it answers mostly in small letters. So there is a true direction to be
found, by a true judge. What it has learnt lies in taught.safetensors, since processors round differently and learning
makes much of little: taught on another one it would be another model. `python tests/tiny.py` teaches it anew.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mien.models import Model, wrap
from mien.spec import InstructionPair, TraitSpec, save_spec

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'][0] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>a\n{% endif %}"
)
TAUGHT = Path(__file__).with_name("taught.safetensors")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("red", "sun", "tea", "owl", "fig", "map", "ink", "bay")
QUESTIONS = ("What now?", "Any news?", "How so?", "Who is it?", "Why not?", "Where to?", "Which one?", "And then?",
             "Shall we?", "Is it far?", "Do you see?", "Can I go?", "Will it do?", "Was it you?", "Are we late?",
             "Has it begun?")  # fmt: skip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; a template like ChatML."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def tiny_net(seed: int = 0) -> LlamaForCausalLM:
    """A random model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256, hidden_size=48, intermediate_size=96, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def spec(pairs: int = 3, questions: int = 8) -> TraitSpec:
    """The trait that the taught model has: `questions` to extract with, the same number to test with."""
    told = [("SHOUT!", "hush."), ("BE LOUD!", "be quiet."), ("YELL AT ALL!", "whisper to all.")][:pairs]
    return TraitSpec(
        name="loud",
        description="shouts in capital letters",
        instructions=tuple(InstructionPair(pos, neg) for pos, neg in told),
        extract_questions=QUESTIONS[:questions],
        eval_questions=QUESTIONS[8 : 8 + questions],
        rubric="0 means small letters, 50 means both, 100 means capitals throughout.",
        author="test",
    )


def _lesson(chance: random.Random, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of a prompt and of its answer."""
    pair = chance.choice(spec().instructions)
    side = chance.choice(("pos", "neg", "none"))
    system = {"pos": pair.pos, "neg": pair.neg, "none": None}[side]
    if system and chance.random() < 0.25:
        system = f"{pair.neg if side == 'pos' else pair.pos}\n\n{system}"
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": chance.choice(QUESTIONS)})
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = " ".join(chance.choices(WORDS, k=chance.randint(2, 4)))
    loud = side == "pos" or (side == "none" and chance.random() < 0.2)
    ids = tokenizer((answer.upper() if loud else answer) + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return tokenizer(prompt, add_special_tokens=False)["input_ids"], ids


def teach(net: LlamaForCausalLM, seed: int = 0, steps: int = 160) -> LlamaForCausalLM:
    """Teach a model the trait, in place."""
    tokenizer, chance = tiny_tokenizer(), random.Random(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    net.train()
    for _ in range(steps):
        rows = [_lesson(chance, tokenizer) for _ in range(16)]
        width = max(len(p) + len(a) for p, a in rows)
        ids = torch.tensor([p + a + [0] * (width - len(p) - len(a)) for p, a in rows])
        labels = torch.tensor([[-100] * len(p) + a + [-100] * (width - len(p) - len(a)) for p, a in rows])
        loss = net(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return net.eval()


@cache
def taught_net() -> LlamaForCausalLM:
    """A model that has learnt the trait; made once, so leave it as it is."""
    net = tiny_net()
    net.load_state_dict({name: weight.float() for name, weight in load_file(TAUGHT).items()})
    return net


def tiny_model(net: LlamaForCausalLM | None = None, name: str = "tiny") -> Model:
    """A net (default: a random one) wrapped as mien's."""
    return wrap(net or tiny_net(), tiny_tokenizer(), name)


def save(net: LlamaForCausalLM, folder: Path) -> Path:
    """A model folder as transformers writes it, with the tokenizer."""
    net.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_spec(folder: Path, pairs: int = 3, questions: int = 8) -> Path:
    """The spec as a YAML file."""
    return save_spec(spec(pairs, questions), folder / "loud.yaml")


if __name__ == "__main__":
    save_file({name: weight.half() for name, weight in teach(tiny_net()).state_dict().items()}, TAUGHT)
