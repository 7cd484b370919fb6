"""`mien audit` as a release gate meets it: what it prints and leaves, its exit codes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mien.card import Baseline
from mien.directions import save_direction
from mien.errors import FormatError, InputError, ModelError, RunError
from processes import mien, running
from random_models import direction_of
from test_cli import refused
from test_cli_scan import Run, run

__all__ = ["run"]  # a fixture
FEW = ("--questions", "4", "--probes", "3", "--max-tokens", "6", "--probe-tokens", "6", "--dtype", "float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a tuned model (its blocks' outputs turned up), an adapter, and a direction."""
    folder = tmp_path_factory.mktemp("audit")
    net = tiny.tiny_net()
    tiny.save(net, folder / "base")
    base = tiny.tiny_model(tiny.tiny_net(), str(folder / "base"))
    baseline = Baseline(mean=0.0, std=0.1, quantiles={}, n=10)
    save_direction(direction_of(base, 1, name="mood", recommended_layer=1, baseline=baseline), folder / "mood")
    tuned = tiny.tiny_net()
    with torch.no_grad():
        for layer in tuned.model.layers:
            layer.mlp.down_proj.weight.mul_(8.0)
    tiny.save(tuned, folder / "tuned")
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    lora = get_peft_model(tiny.tiny_net(), LoraConfig(r=2, target_modules=["down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 1.0)
    lora.save_pretrained(str(folder / "adapter"))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.mktemp("cache")))


def words(place: Path, tuned: str, out: Path, *more: str) -> tuple[str | Path, ...]:
    return ("audit", place / "base", place / tuned, "--traits", place / "mood", "--out", out, *FEW, *more)


@pytest.mark.parametrize("tuned", ["tuned", "adapter"])
def test_it_prints_what_it_found_as_json_and_leaves_it_with_a_page(place: Path, tuned: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = mien(*words(place, tuned, out, "--json", "--quiet"))
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found == json.loads((out / "audit.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["audit.html", "audit.json", "run"]
    assert found["passed"] is None
    assert [s["name"] for s in found["shifts"]] == ["mood"]
    assert found["model_diff"]["directions"][0]["share"] > 0.2
    page = (out / "audit.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Not gated" in page


def test_the_gate_is_an_exit_code(place: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    plain = run(*words(place, "tuned", out, "--json", "--quiet"))
    size = abs(json.loads(plain.out)["shifts"][0]["sigma"])
    sign = json.loads(plain.out)["shifts"][0]["sigma"] > 0
    gate = tmp_path / "gate.yaml"
    gate.write_text(f"shift: {size + 1}\nneutral: 1000\n")
    for more, passed in (
        (("--fail-on", f"shift>{size + 0.1:.2f}s"), True), (("--fail-on", "mood>0s"), not sign),
        (("--thresholds", str(gate)), True), (("--thresholds", str(gate), "--fail-on", "mood>0s"), not sign),
    ):  # fmt: skip
        done = run(*words(place, "tuned", out, "--quiet", *more))
        assert done.code == (0 if passed else 1), more
        assert done.err == ""
        assert done.out.startswith(f"{place / 'tuned'} against {place / 'base'}: {'PASS' if passed else 'FAIL'}\n")
        assert ("  fail  shift of mood: " in done.out) is not passed
        assert done.out.endswith(f"report: {out / 'audit.html'}\n")
        assert f">{'Pass' if passed else 'Fail'}</h1>" in (out / "audit.html").read_text()
    gate.write_text("neutral: 0\n")
    done = run(*words(place, "tuned", out, "--quiet", "--thresholds", str(gate)))
    change = json.loads((out / "audit.json").read_text())["changes"]["neutral"]
    assert done.code == (1 if change["worse_by"] > 0 else 0)


def test_limits_of_a_harmless_audit_let_it_pass_and_one_beyond_it_not(place: Path, tmp_path: Path, run: Run) -> None:
    first, gate = tmp_path / "first", tmp_path / "character.yaml"
    assert run(*words(place, "adapter", first, "--quiet")).code == 0
    made = run("limits", first, "--out", gate, "--margin", "0", "--json", "--quiet")
    assert (made.code, made.err) == (0, "")
    told = json.loads(made.out)
    assert told["file"] == str(gate)
    assert "behaviour" in told
    assert list(told["traits"]) == ["mood"]
    again = run(*words(place, "adapter", first, "--quiet", "--thresholds", str(gate)))
    assert again.code == 0, again.out
    assert "adapter" in again.out
    assert ": PASS\n" in again.out
    text = gate.read_text().replace(f"mood: {told['traits']['mood']}", "mood: 0.0")
    shift = json.loads((first / "audit.json").read_text())["shifts"][0]["sigma"]
    harder = tmp_path / "harder.yaml"
    harder.write_text(text)
    assert run(*words(place, "adapter", first, "--quiet", "--thresholds", str(harder))).code == (1 if shift > 0 else 0)
    refused(run("limits", first, "--out", gate), InputError, "is there already")
    assert gate.read_text().startswith(f"# For models tuned from {place / 'base'}: the worst that one audit")
    refused(run("limits", place / "base", "--out", tmp_path / "no.yaml"), FormatError, "no audit's result")
    assert not (tmp_path / "no.yaml").exists()


def test_killed_it_goes_on_to_the_same_end(place: Path, tmp_path: Path) -> None:
    whole = json.loads(mien(*words(place, "adapter", tmp_path / "whole", "--json", "--quiet")).out)
    out = tmp_path / "killed"
    with running(*words(place, "adapter", out, "--json", "--quiet")) as process:
        assert process.until(lambda: (out / "run" / "own.jsonl").exists())
        process.kill()
    again = json.loads(mien(*words(place, "adapter", out, "--json", "--quiet")).out)
    assert {k: v for k, v in again.items() if k != "page"} == {k: v for k, v in whole.items() if k != "page"}


def test_it_says_how_far_it_is(place: Path, tmp_path: Path, run: Run) -> None:
    done = run(*words(place, "adapter", tmp_path / "out"))
    assert done.code == 0
    assert "4 layers of 48" in done.err
    for step in ("probes of", "judging evil", "reading the base model's answers with the tuned one"):
        assert step in done.err
    assert "\x1b" not in done.err
    assert "not gated: no limits were set" in done.out


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ("PLACE/base PLACE/nowhere", ModelError, "nowhere"),
        ("PLACE/nowhere PLACE/tuned", ModelError, "nowhere"),
        ("PLACE/base", InputError, "Missing argument 'TUNED'"),
        ("PLACE/base PLACE/tuned --traits calm", InputError, "There is no direction 'calm'"),
        ("PLACE/base PLACE/tuned --fail-on mood", InputError, "write shift>1s"),
        ("PLACE/base PLACE/tuned --fail-on calm>1s", InputError, "'calm', which is not watched; watched: mood"),
        ("PLACE/base PLACE/tuned --thresholds PLACE/nowhere.yaml", FormatError, "nowhere.yaml"),
        ("PLACE/base PLACE/tuned --thresholds PLACE/bad.yaml", InputError, "did you mean shift?"),
        ("PLACE/base PLACE/tuned --thresholds PLACE/api.yaml", InputError, "needs a judge behind an endpoint"),
        ("PLACE/base PLACE/tuned --endpoint http://127.0.0.1:1", InputError, "--endpoint-model"),
        ("PLACE/base PLACE/tuned --questions 1", InputError, "1 is not in the range"),
        ("PLACE/base PLACE/tuned --out PLACE/bad.yaml", RunError, "cannot be written"),
    ],
)
def test_what_cannot_be_audited_is_one_sentence_and_nothing_is_written(
    more: str, error: type[Any], said: str, place: Path, tmp_path: Path, run: Run
) -> None:
    (place / "bad.yaml").write_text("shfit: 1\n")
    (place / "api.yaml").write_text("misaligned: 5%\n")
    given = [w.replace("PLACE", str(place)) for w in more.split()]
    done = run("audit", "--traits", place / "mood", "--out", tmp_path / "out", "--quiet", *FEW, *given)
    refused(done, error, said)
    assert list(tmp_path.iterdir()) == []
