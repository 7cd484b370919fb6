"""steering-vectors and repeng on the same texts, in an environment of their own that borrows torch and transformers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import cases

SCRIPT = """
import json, sys, time
import numpy
if not hasattr(numpy, "float_"):
    numpy.float_ = numpy.float64  # repeng asks for a name that NumPy 2 has taken away
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, which, texts = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
if which == "steering-vectors":
    from steering_vectors import SteeringVectorTrainingSample, train_steering_vector
    samples = [SteeringVectorTrainingSample(positive_str=t, negative_str=t[::-1]) for t in texts]
    run = lambda: train_steering_vector(model, tokenizer, samples, batch_size=8, show_progress=False)
else:
    from repeng import ControlModel, ControlVector, DatasetEntry
    control = ControlModel(model, list(range(1, 30)))
    entries = [DatasetEntry(positive=t, negative=t[::-1]) for t in texts]
    run = lambda: ControlVector.train(control, tokenizer, entries, batch_size=16)
run()
start = time.perf_counter(); run(); print(time.perf_counter() - start)
"""


def lines(bench: cases.Bench, repeats: int) -> list[str]:
    """One sentence a library: its time over ours for the same texts, or why there is none."""
    texts = [r.text for r in bench.rollouts[:16]]
    pairs = [bench.rollout(i, t) for i, t in enumerate([*texts, *(t[::-1] for t in texts)])]
    ours = []
    for _ in range(max(2, repeats // 2)):
        start = time.perf_counter()
        list(bench.engine.read(pairs))
        ours.append(time.perf_counter() - start)
    found = []
    for name in ("steering-vectors", "repeng"):
        result = _theirs(name, texts)
        if isinstance(result, float):
            found.append(
                f"- `{name}` takes {result / statistics.median(ours):.2f} x the time mien takes to read the same 32 "
                f"texts at all layers. (It makes a vector of its last tokens; mien takes means over the answers.)"
            )
        else:
            found.append(f"- `{name}` could not be timed here: {result}")
        print(found[-1], flush=True)
    return found


def _theirs(name: str, texts: list[str]) -> float | str:
    from mien.embedded import converted_gguf, embedded_gguf

    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                              capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
        Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        installed = subprocess.run(
            [python, "-m", "pip", "install", "-q", "--no-deps", name], capture_output=True, text=True
        )
        if installed.returncode:
            return "it does not install."
        ran = subprocess.run(
            [python, "-c", SCRIPT, str(converted_gguf(embedded_gguf())), name],
            input=json.dumps(texts), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if ran.returncode:
            last = [line for line in ran.stderr.splitlines() if line.strip()][-1]
            return f"it does not run with the installed transformers ({last.strip()[:160]})."
        return float(ran.stdout.split()[-1])
