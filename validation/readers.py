"""Does a larger reader read better? Probes fitted to one writer's labelled answers, tested on the other's, as the
embedded reader and another one read them: written to docs/readers.md.

    python validation/readers.py MODEL

The model is anything that `--reader` takes. Readings are kept in the cache; a model of half a billion parameters takes
an hour on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "validation"), str(REPO / "benchmarks")]

import machine_line  # noqa: E402
import template  # noqa: E402
from labelled import Labels, auc_with_interval, read_labels, reference  # noqa: E402
from template import table  # noqa: E402

from mien.evidence import auc  # noqa: E402
from mien.jobs.fit import MIN_SIDE, PENALTIES, Labelled, choose, target_of, trials_of  # noqa: E402
from mien.models import load  # noqa: E402
from mien.probes import fit_probe, grouped_folds  # noqa: E402


def transferred(a: Labels, b: Labels, label: str) -> tuple[float, np.ndarray]:
    """AUC within `a` on conversations left out; and the answers of `b` as the probe fitted to `a` reads them, `[n]`.

    The choice is that of `mien gauge fit`. What it does besides, baseline and correction for texture, is left out.
    """
    data = Labelled(
        a.means, a.layers, target_of(a.intensity[label], 2), a.positive(label), a.group,
        np.zeros(len(a.group), np.int64), (a.name,), a.texts, a.textures,
    )  # fmt: skip
    folds = grouped_folds(data.group, data.positive, 0)
    best = choose([t for penalty in PENALTIES for t in trials_of(data, folds, folds, penalty)])
    values = []
    for k in best.layers:
        weights = fit_probe(a.means[:, k], data.target, best.penalty)
        values.append((b.means[:, k] @ weights) / (a.means[:, k] @ weights).std())
    return best.auc, np.mean(values, axis=0, dtype=np.float64)


def rows_of(readings: list[list[Labels]]) -> tuple[list[list[str]], np.ndarray]:
    """Cells by label and direction; AUCs `[rows, readers + 1]`, the last of the readers' mean.

    Args:
        readings: by reader, the files.
    """
    rows, aucs = [], []
    files = readings[0]
    for label in files[0].intensity:
        for i, j in ((0, 1), (1, 0)):
            sides = [(np.asarray(files[k].positive(label)), least) for k, least in ((i, MIN_SIDE), (j, 10))]
            if any(min(side.sum(), (~side).sum()) < least for side, least in sides):
                continue
            found = [transferred(each[i], each[j], label) for each in readings]
            values = [v / v.std() for _, v in found]
            values.append(np.mean(values, axis=0))
            own = " and ".join(f"{within:.2f}" for within, _ in found)
            cells = [auc_with_interval(v, files[j], label) for v in values]
            rows.append([label, files[i].name, files[j].name, own, *cells])
            aucs.append([auc(v, files[j].positive(label)) for v in values])
            print(" | ".join(rows[-1]), flush=True)
    return rows, np.array(aucs)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    other = load(sys.argv[1])
    paths = sorted((reference() / "spiral_bench").glob("*.jsonl"))
    rows, aucs = rows_of([[read_labels(path, reader) for path in paths] for reader in (load(), other)])
    names = ["the embedded reader", "the other", "both, averaged"]
    rows.append(["**mean**", "", "", "", *(f"**{mean:.2f}**" for mean in aucs.mean(0))])
    text = template.fill("readers", {
        "machine": "\n".join(machine_line.lines()),
        "other": Path(other.info.id).stem, "layers": str(other.n_layers), "width": str(other.info.d_model),
        "table": table(["label", "fitted on", "tested on", "AUC where fitted, conversations left out", *names], rows),
        "ahead": f"{int((aucs[:, 1] > aucs[:, 0]).sum())} of {len(aucs)}",
        "by": f"{np.abs(aucs[:, 1] - aucs[:, 0]).max():.2f}",
    })  # fmt: skip
    (REPO / "docs" / "readers.md").write_text(text, "utf-8")
    print("written to docs/readers.md")


if __name__ == "__main__":
    main()
