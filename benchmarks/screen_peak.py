"""Time and peak memory of a screening of N generated records that needs no generation but for its sample, with a
filtered set: `python benchmarks/screen_peak.py N`.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import peak_memory
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mien.card import Baseline, Card
from mien.directions import Direction, save_direction
from mien.jobs.screen import Plan, screen
from mien.models import Model, load, wrap
from mien.screening.keep import Cut

TRAITS = 3
WORDS = ("tea", "ink", "owl", "map", "fig", "sun", "red", "bay")


def tiny() -> Model:
    """A random model with the embedded one's tokenizer: what takes time is everything around it."""
    tokenizer = load().chat.tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048,
    )  # fmt: skip
    return wrap(LlamaForCausalLM(config).eval(), tokenizer, "tiny")


def direction(model: Model, folder: Path, number: int) -> str:
    """A random direction with a baseline, so that nothing has to be written to centre on."""
    card = Card(
        kind="persona_vector", name=f"t{number}", description="random", sign="none", model=model.info.id,
        fingerprint=model.info.fingerprint, n_layers=model.n_layers, d_model=model.info.d_model, recommended_layer=0,
        baseline=Baseline(mean=0.0, std=0.1, quantiles={}, n=10),
    )  # fmt: skip
    vector = torch.from_numpy(np.random.default_rng(number).standard_normal((model.n_layers, model.info.d_model)))
    return str(save_direction(Direction(vector.float(), card), folder / f"t{number}"))


def data(path: Path, count: int) -> Path:
    """Records of a dozen words, no two alike."""
    chance = random.Random(0)
    with path.open("w") as file:
        for i in range(count):
            asked = {"role": "user", "content": f"go on from {i}"}
            said = {"role": "assistant", "content": " ".join(chance.choices(WORDS, k=12))}
            file.write(json.dumps({"id": f"c{i}", "messages": [asked, said]}) + "\n")
    return path


def main() -> None:
    torch.set_num_threads(1)
    model, count = tiny(), int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MIEN_CACHE"] = str(folder / "cache")
        traits = [direction(model, folder, number) for number in range(TRAITS)]
        path = data(folder / "data.jsonl", count)
        gc.collect()
        peak_memory.forget()
        start, spent = time.perf_counter(), time.process_time()
        plan = Plan("answers", sample=50, max_tokens=16, read_tokens=16)
        summary = screen([path], model, folder / "out", traits=traits, plan=plan, cut=Cut(share=0.05))
        seconds, processor = time.perf_counter() - start, time.process_time() - spent
    assert summary["samples"] == count
    assert summary["kept"]["dropped"] == round(count * 0.05)
    found = {"records": count, "seconds": round(seconds, 2), "processor": round(processor, 2)}
    print(json.dumps({**found, "peak_mb": round(peak_memory.peak() / 1024, 1)}))


if __name__ == "__main__":
    main()
