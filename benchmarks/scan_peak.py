"""Peak memory of a scan of N generated conversations: `python benchmarks/scan_peak.py N`."""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import peak_memory
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mien.gauges import Gauge, GaugeSet, Part, bundled_gauges
from mien.jobs.scan import scan
from mien.models import load, wrap

torch.set_num_threads(1)
count = int(sys.argv[1])
embedded = load()
tokenizer = embedded.chat.tokenizer
del embedded
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=2048,
)  # fmt: skip
model = wrap(LlamaForCausalLM(config).eval(), tokenizer, "tiny")
known = bundled_gauges("smollm2-135m")
assert known is not None
vector = np.ones(16, np.float32)
gauge = Gauge("g", "", "high", (Part(0, vector),), baseline=known.gauges[0].baseline)
gauges = GaugeSet("tiny", model.info.fingerprint, 16, (gauge,))
words = ["tea", "ink", "owl", "map", "fig", "sun", "red", "bay"]
with tempfile.TemporaryDirectory() as folder:
    log, chance = Path(folder) / "log.jsonl", random.Random(0)
    with log.open("w") as file:
        for i in range(count):
            text = " ".join(chance.choices(words, k=12))
            messages = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": text}]
            file.write(json.dumps({"id": f"c{i}", "messages": messages}) + "\n")
    gc.collect()
    peak_memory.forget()
    summary = scan([log], model, Path(folder) / "out", gauges=gauges)
peak = peak_memory.peak() / 1024
print(json.dumps({"conversations": summary["conversations"], "peak_mb": round(peak, 1)}))
