"""`mien train` as people meet it: what it prints, and what it refuses in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from mien.cli.train_command import share
from mien.directions import save_direction
from mien.errors import InputError
from processes import Done, mien
from test_train import loud, shouting

QUICK = ["--lr", "1e-2", "--rank", "4", "--alpha", "8", "--max-length", "200", "--measure", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a direction of it, and data."""
    path = tmp_path_factory.mktemp("cli")
    tiny.save(tiny.taught_net(), path / "model")
    save_direction(loud(), path / "loud")
    shouting(path, 16)
    return path


def run(folder: Path, *words: str) -> Done:
    return mien("train", *words, "--model", folder / "model", "--dtype", "float32", *QUICK)


def test_it_trains_and_says_what_has_moved(folder: Path, tmp_path: Path) -> None:
    data, direction = str(folder / "shouting.jsonl"), str(folder / "loud")
    done = run(folder, data, "--prevent", direction, "--out", str(tmp_path / "a"), "--hold-out", "25%", "--coef", "0.5")
    assert done.code == 0, done.err
    assert "trained on 12 rows" in done.out
    assert "loud: coef 0.5 at layer 2 (given)" in done.out
    assert "held-out loss" in done.out
    assert "loud: moved" in done.out
    assert "steering along loud: coef 0.5" in done.err
    assert "step 0: loud" in done.err
    again = run(
        folder, data, "--prevent", direction, "--out", str(tmp_path / "a"), "--hold-out", "0.25", "--coef", "0.5",
        "--json", "--quiet",
    )  # fmt: skip
    card = json.loads(again.out)
    assert again.err == ""
    assert (card["method"], card["prevention"][0]["coef"], card["out"]) == ("prevent", 0.5, str(tmp_path / "a"))


def test_without_traits_it_is_plain_and_watches_what_is_named(folder: Path, tmp_path: Path) -> None:
    data = str(folder / "shouting.jsonl")
    done = run(folder, data, "--track", str(folder / "loud"), "--out", str(tmp_path), "--stop-at-shift", "0.001s")
    assert done.code == 0, done.err
    assert ", plain" in done.out
    assert "stopped at step" in done.out


def test_columns_of_a_table_are_named(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "d.csv"
    table.write_text("q,a\n" + "".join(f"What {i}?,RED SUN\n" for i in range(8)))
    words = [str(table), "--track", "", "--out", str(tmp_path / "out")]
    refused = run(folder, *words)
    assert (refused.code, "Its columns are: q, a" in refused.err) == (2, True)
    assert not (tmp_path / "out").exists()
    done = run(folder, *words, "--columns", "prompt=q,response=a", "--json", "--quiet")
    assert done.code == 0, done.err
    assert json.loads(done.out)["data"]["rows"] == 8


def test_a_constitution(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: bold\nstatements: [SHOUT!]\ntraits: {loud: still}\n")
    words = ["--constitution", str(path), "--out", str(tmp_path / "out"), "--track", str(folder / "loud")]
    done = mien("train", *words, "--model", folder / "model", "--lr", "1e-3", "--rank", "2", "--max-length", "2000")
    assert done.code == 0, done.err
    assert "taught bold by" in done.out
    assert "loss of the preference" in done.out
    assert "wanted (still)" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "files to train on or --constitution"),
        (["DATA", "--constitution", "c.yaml"], "files to train on or --constitution"),
        (["--constitution", "c.yaml", "--columns", "prompt=q"], "taught without data"),
        (["DATA", "--columns", "colour=c"], "'colour'"),
        (["DATA", "--format", "docx"], "'docx'"),
        (["DATA", "--adapter", "a"], "merge the other one"),
        (["DATA", "--coef", "much"], "say auto"),
        (["DATA", "--layers", "deep"], "whole numbers"),
        (["DATA", "--drop", "some"], "10% or 0.1"),
        (["DATA", "--stop-at-shift", "far"], "above zero"),
        (["DATA", "--prevent", "nobody"], "no direction 'nobody'"),
        (["DATA", "--track", "nobody"], "no direction 'nobody'"),
        (["DATA", "--method", "prevent"], "name the traits"),
        (["DATA", "--epochs", "0"], "above zero"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    given = [str(folder / "shouting.jsonl") if word == "DATA" else word for word in words]
    done = run(folder, *given, "--out", str(tmp_path / "out"))
    assert done.code in (2, 3), done.err
    assert said in done.err
    assert (done.out, "Traceback" in done.err) == ("", False)
    assert not (tmp_path / "out").exists()


def test_shares() -> None:
    assert (share("10%"), share("0.1"), share(" 5 %")) == (0.1, 0.1, 0.05)
    with pytest.raises(InputError):
        share("many")
