"""The command line as people and programs meet it: real processes, what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

import mien as package
import tiny
from fake_endpoint import FakeEndpoint, Step, cut_off, hang, hang_up, html, ok, status
from mien.card import Card
from mien.cli import main
from mien.errors import EndpointError, FormatError, InputError, ModelError, NothingKeptError, RunError, SpecError
from mien.home import find_direction
from processes import Done, command, mien, running

COMMANDS = sorted(p.stem.removesuffix("_command") for p in (Path(package.__file__).parent / "cli").glob("*_command.py"))
"""By the files that are there: one that nobody can call is found."""
Files = dict[str, bytes]


def files(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(done: Done, error: type[Any], *said: str) -> None:
    """One sentence on stderr that begins with `mien:`, the error's exit code, and nothing on stdout."""
    assert "Traceback" not in done.err
    assert done.err.startswith("mien: "), done
    assert done.err.count("\n") == 1, done.err
    assert len(done.err) < 700
    assert done.err.rstrip()[-1] in ".?", done.err
    assert done.code == error.exit_code, done
    assert done.out == ""
    for words in said:
        assert words in done.err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model that has learnt to shout, and a spec beside it."""
    folder = tmp_path_factory.mktemp("taught")
    tiny.save(tiny.taught_net(), folder)
    tiny.save_tiny_spec(folder, questions=4)
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that has learnt nothing."""
    return tiny.save(tiny.tiny_net(), tmp_path_factory.mktemp("noise"))


@pytest.fixture(scope="module")
def home(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the direction `loud` in it, which the tests of this file share."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(folder))
        done = mien("extract", "--spec", model / "loud.yaml", "--model", model, "--json")
        (folder / "extract.json").write_text(done.out)
        (folder / "extract.err").write_text(done.err)
        assert done.code == 0, done.err
        yield folder


# The public names


def test_the_public_names_are_sorted_documented_and_there() -> None:
    names = package.__all__
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert 15 <= len(names) <= 21, "about fifteen for the main job, one for each other: a name more must replace one"
    for name in names:
        value = getattr(package, name)
        assert value.__doc__, name
        assert value.__module__.startswith("mien"), name
        assert not value.__doc__.startswith(f"{name}("), f"{name} has a docstring made by dataclass only"
    assert dir(package) == sorted([*names, "__version__"])
    with pytest.raises(AttributeError, match="has no attribute 'extractt'"):
        _ = package.extractt  # type: ignore[attr-defined]


def test_importing_mien_brings_no_torch() -> None:
    heavy = ("torch", "transformers", "numpy", "sklearn")
    code = f"import sys, mien, mien.cli; print([m for m in {heavy} if m in sys.modules])"
    assert command("python", "-c", code).out == "[]\n"


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_without_loading_torch(name: str) -> None:
    code = f"import sys\nfrom mien.cli import main\ntry: main([{name!r}, '--help'])\nexcept SystemExit as e: " \
        "print('exit', e.code, 'torch' in sys.modules)"  # fmt: skip
    done = command("python", "-c", code)
    assert done.out.startswith(f"Usage: mien {name} ")
    assert done.out.endswith("exit 0 False\n")
    assert done.err == ""


def test_every_command_speaks_to_programs() -> None:
    """The parts of groups, too."""
    from mien.cli import group

    def leaves(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield words, command
            return
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from leaves(inner, f"{words} {name}")

    found = dict(leaves(group, "mien"))
    assert len(found) > len(COMMANDS)
    for words, leaf in found.items():
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert {"--json", "--quiet"} <= options, words


def test_every_command_has_its_help_in_the_docs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"<!-- help:{name} -->" not in page] == []


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_mien_alone_lists_its_commands(words: list[str]) -> None:
    done = command("python", "-m", "mien", *words)
    assert (done.code, done.err) == (0, "")
    for name in COMMANDS:
        assert f"  {name} " in done.out


def test_the_installed_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "mien"
    assert script.exists(), "mien is not installed in this environment"
    done = command(script, "--version")
    assert (done.code, done.out) == (0, f"mien, version {package.__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["extrct"], "No such command 'extrct'"),
        (["extract", "--buget", "small"], "--buget"),
        (["extract", "x", "--budget", "huge"], "'huge' is not one of"),
        (["extract", "x", "--seed", "-1"], "-1 is not in the range"),
        (["extract", "x", "--seed", "one"], "'one' is not a valid integer"),
        (["steer", "loud"], "Missing argument 'QUESTION'"),
        (["export", "loud", "x.gguf"], "--format"),
        (["show"], "Missing argument 'NAME'"),
        (["gauge"], "Say which of contrast, describe, fit, show, write-contrasts is wanted."),
    ],
)
def test_a_mistyped_command_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    captured = capsys.readouterr()
    refused(Done(int(str(ended.value.code)), captured.out, captured.err), InputError, said, "--help")


# What comes out


def test_extract_prints_the_card_as_json_and_its_progress_on_stderr(home: Path, model: Path) -> None:
    printed = json.loads((home / "extract.json").read_text())
    (folder,) = (home / "directions").glob("*/loud")
    assert (printed.pop("out"), printed.pop("page")) == (str(folder), str(folder / "card.html"))
    on_disk = json.loads((folder / "card.json").read_text())
    assert printed == on_disk
    schema = Card.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(on_disk, schema)

    assert on_disk["name"] == "loud"
    assert on_disk["model"] == str(model)
    assert on_disk["verdict"] in ("strong", "usable", "weak")
    assert 0 <= on_disk["recommended_layer"] < 4
    low, high = on_disk["coef_range"]
    assert low <= 0 <= high
    assert on_disk["rollouts"]["asked"] == on_disk["rollouts"]["kept"] + sum(on_disk["rollouts"]["dropped"].values())
    assert [row["layer"] for row in on_disk["layers"]] == [0, 1, 2, 3]
    for row in on_disk["layers"]:
        assert {"layer", "auc", "auc_null", "split_half_cosine"} <= set(row)
    coefs = [row["coef"] for row in on_disk["dose_response"]]
    assert coefs == sorted(coefs)
    for row in on_disk["dose_response"]:
        assert {"coef", "score", "score_low", "score_high", "coherence"} <= set(row)

    said = (home / "extract.err").read_text()
    assert "4 layers of 48" in said
    assert "chat model" in said
    assert "plain answers" in said
    assert "\x1b" not in said  # stderr is no terminal here


def test_the_published_schema_is_the_one_cards_are_checked_against() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "card.md").read_text()
    block = page.partition("<!-- schema:card -->")[2].partition("```json\n")[2].partition("```")[0]
    assert json.loads(block) == Card.model_json_schema()


def test_quiet_says_nothing_on_stderr_and_json_is_all_of_stdout(home: Path, model: Path, tmp_path: Path) -> None:
    where = ("--model", model, "--quiet", "--json")
    runs = {
        "extract": mien("extract", "--spec", model / "loud.yaml", "--out", tmp_path / "run", *where),
        "steer": mien("steer", "loud", "What now?", "--coef", "2", *where),
        "show": mien("show", "loud", *where),
        "traits": mien("traits", *where),
        "export": mien("export", "loud", tmp_path / "loud.gguf", "--format", "gguf", *where),
        "import": mien("import", tmp_path / "loud.gguf", "--name", "back", "--out", tmp_path / "back", *where),
    }
    for name, done in runs.items():
        assert (done.code, done.err) == (0, ""), name
        assert isinstance(json.loads(done.out), dict), name


def test_show_gives_the_same_card_by_name_by_folder_and_in_words(home: Path, model: Path) -> None:
    (folder,) = (home / "directions").glob("*/loud")
    by_name = mien("show", "loud", "--model", model, "--json")
    by_folder = mien("show", folder, "--json")
    assert by_name.code == by_folder.code == 0
    assert json.loads(by_name.out) == json.loads(by_folder.out) == json.loads((home / "extract.json").read_text())
    card = json.loads(by_name.out)
    words = mien("show", "loud", "--model", model).out
    assert words.startswith(f"loud: {card['verdict'].upper()}\n  {card['verdict_reasons'][0]}")
    assert words.rstrip().endswith(f"report: {folder / 'card.html'}")


def test_steer_answers_plainly_and_with_each_strength(home: Path, model: Path) -> None:
    words = ("steer", "loud", "What now?", "--model", model, "--max-tokens", "12")
    done = mien(*words, "--coef", "1", "--coef", "-1", "--json", "--quiet")
    found = json.loads(done.out)
    assert (found["question"], found["direction"]) == ("What now?", "loud")
    assert [a["arm"] for a in found["answers"]] == ["plain", "loud x 1", "loud x -1"]
    loaded = package.load(str(model))
    assert found["answers"][0]["text"] == package.answer(loaded, "What now?", max_tokens=12)
    direction = package.load_direction("loud", loaded)
    with package.steered(loaded, package.Add(direction, coef=1.0)):
        assert found["answers"][1]["text"] == package.answer(loaded, "What now?", max_tokens=12)
    for answer in found["answers"]:
        if answer["text"]:
            assert answer["sigma"] == pytest.approx(
                (answer["projection"] - direction.card.baseline.mean) / direction.card.baseline.std,
                abs=0.02,  # type: ignore[union-attr]
            )
    table = mien(*words, "--coef", "1", "--quiet").out
    assert "What now?" in table
    assert "loud x 1" in table


def test_interventions_are_combined_by_name(home: Path, model: Path) -> None:
    words = ("steer", "loud", "What now?", "--model", model, "--max-tokens", "8", "--json", "--quiet")
    capped = json.loads(mien(*words, "--cap", "loud::-1", "--layer", "2", "--tokens", "response").out)
    assert [a["arm"] for a in capped["answers"]] == ["plain", "cap loud::-1"]
    many = json.loads(mien(*words, "--coef", "1", "--add", "loud:-1", "--ablate", "loud").out)
    assert [a["arm"] for a in many["answers"]] == ["plain", "loud x 1, add loud:-1, ablate loud"]
    undone = json.loads(mien(*words, "--coef", "1.5", "--add", "loud:-1.5").out)
    assert undone["answers"][0]["text"] == undone["answers"][1]["text"]


def test_a_folder_brings_its_own_model(home: Path, model: Path) -> None:
    (folder,) = (home / "directions").glob("*/loud")
    done = mien("steer", folder, "What now?", "--max-tokens", "4", "--json")
    assert done.code == 0
    assert str(model) in done.err


def test_traits_lists_the_library_and_what_is_kept(home: Path, model: Path) -> None:
    found = json.loads(mien("traits", "--model", model, "--json").out)
    assert len(found["library"]) >= 12
    assert {"evil", "sycophantic", "hallucinating", "apathetic", "humorous", "impolite", "optimistic"} <= set(
        found["library"]
    )
    assert found["kept"]["loud"]["description"] == "shouts in capital letters"
    words = mien("traits", "--model", model).out
    assert "shouts in capital letters" in words


def test_a_broken_direction_does_not_hide_the_others(home: Path, model: Path) -> None:
    (folder,) = (home / "directions").glob("*/loud")
    broken = folder.parent / "broken"
    broken.mkdir()
    try:
        (broken / "card.json").write_text("{")
        done = mien("traits", "--model", model)
        assert done.code == 0
        assert "unreadable" in done.out
        assert "shouts in capital letters" in done.out
        refused(mien("show", "broken", "--model", model), FormatError, "broken/card.json")
    finally:
        (broken / "card.json").unlink()
        broken.rmdir()


def test_a_reader_that_leaves_early_is_no_error(home: Path) -> None:
    """As in `mien traits | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "mien", "traits", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_letters_that_the_terminal_lacks_do_not_end_in_a_traceback() -> None:
    environment = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = command("python", "-m", "mien", "show", "nob字dy", env=environment)
    refused(done, InputError, "There is no direction 'nob?dy'")


def test_the_axis_is_made_by_its_own_command(mien_home: Path) -> None:
    with pytest.raises(InputError, match=r"make it with: mien axis --model tiny\."):
        find_direction("assistant", "tiny")


@pytest.mark.parametrize(("kind", "lost"), [("persona_vectors", 3), ("gguf", 0), ("assistant_axis", None)])
def test_an_export_names_the_layer_that_its_format_cannot_hold(
    home: Path, model: Path, tmp_path: Path, kind: str, lost: int | None
) -> None:
    done = mien("export", "loud", tmp_path / "x", "--format", kind, "--model", model)
    assert done.code == 0
    assert (f"no place for layer {lost}" in done.out) is (lost is not None)
    refused(mien("export", "loud", tmp_path, "--format", kind, "--model", model), InputError, "is a folder")


# Bad words


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ([], InputError, "Give either one sentence"),
        (["x", "--spec", "evil"], InputError, "Give either one sentence"),
        ([""], SpecError, ""),
        (["   \n"], SpecError, ""),
        (["!?..."], SpecError, ""),
        (["a" * 5000], SpecError, ""),
        (["is \x07 rude"], SpecError, ""),
        (["is rude", "--name", "../up"], SpecError, "cannot be a trait's name"),
        (["is rude", "--name", "x" * 65], SpecError, "64 is the most"),
        (["--spec", ""], SpecError, ""),
        (["--spec", "evli"], SpecError, "evil"),
        (["--spec", "./nowhere.yaml"], FormatError, "no trait file"),
        (["--spec", "evil", "--temperature", "nan"], InputError, "temperature"),
        (["--spec", "evil", "--temperature", "-1"], InputError, "temperature"),
        (["is rude", "--judge", "endpoint"], InputError, "--endpoint URL"),
        (["is rude", "--author", "endpoint", "--endpoint", "http://x/v1"], InputError, "--endpoint-model NAME"),
        (["is rude", "--author", "endpoint", "--endpoint", "nonsense", "--endpoint-model", "m"], InputError, ""),
    ],
)
def test_what_cannot_be_a_trait_is_said_before_anything_is_written(
    words: list[str], error: type[Any], said: str, noise: Path, tmp_path: Path
) -> None:
    refused(mien("extract", *words, "--model", noise, "--out", tmp_path / "run", "--quiet"), error, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("", FormatError, "is empty"),
        ("name: x\n", SpecError, "has no"),
        ("- a\n- b\n", FormatError, "a list"),
        ("name: [", FormatError, "not valid YAML"),
        ("!!python/object/apply:os.system ['touch bomb']", FormatError, ""),
        ("QUESTIONS", SpecError, "has no extract questions"),
        ("ONE", InputError, "one extract question only"),
    ],
)
def test_a_spec_that_cannot_be_used_is_one_sentence(
    content: str, error: type[Any], said: str, model: Path, tmp_path: Path
) -> None:
    whole = (model / "loud.yaml").read_text()
    head, _, rest = whole.partition("extract_questions:\n")
    first, _, tail = rest.partition("\n")
    tail = tail[tail.index("eval_questions:") :]
    content = {"QUESTIONS": f"{head}extract_questions: []\n{tail}",
               "ONE": f"{head}extract_questions:\n{first}\n{tail}"}.get(content, content)  # fmt: skip
    (tmp_path / "spec.yaml").write_text(content)
    done = mien("extract", "--spec", tmp_path / "spec.yaml", "--model", model, "--out", tmp_path / "run", "--quiet")
    refused(done, error, said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spec.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["", "--coef", "1"], "question is empty"),
        (["Q?", "--coef", "nan"], "finite"),
        (["Q?", "--coef", "inf"], "finite"),
        (["Q?", "--max-tokens", "0"], "--max-tokens"),
        (["Q?", "--temperature", "nan"], "--temperature"),
        (["Q?", "--layer", "4"], "no layer 4"),
        (["Q?", "--layer", "-1"], "no layer -1"),
        (["Q?", "--add", "loud"], "NAME:COEF"),
        (["Q?", "--add", "loud:x"], "NAME:COEF"),
        (["Q?", "--add", "loud:nan"], "NAME:COEF"),
        (["Q?", "--add", "lowd:1"], "no direction 'lowd'"),
        (["Q?", "--ablate", ""], "not a direction"),
        (["Q?", "--cap", "loud"], "NAME:LOW:HIGH"),
        (["Q?", "--cap", "loud::"], "low or a high bound"),
        (["Q?", "--cap", "loud:2:1"], "above its high bound"),
        (["Q?", "--cap", "loud:nan:"], "NAME:LOW:HIGH"),
    ],
)
def test_what_cannot_be_steered_with_is_one_sentence(home: Path, model: Path, words: list[str], said: str) -> None:
    refused(mien("steer", "loud", *words, "--model", model, "--quiet"), InputError, said)


def test_a_direction_of_another_model_is_refused(home: Path, noise: Path) -> None:
    (folder,) = (home / "directions").glob("*/loud")
    done = mien("steer", folder, "What now?", "--model", noise, "--quiet")
    refused(done, ModelError, "was made for", "extract it again")


def test_a_trait_of_the_library_that_was_not_made_is_told_how(home: Path, model: Path) -> None:
    done = mien("show", "evil", "--model", model)
    assert f"mien extract --spec evil --model {model}" in done.err


@pytest.mark.parametrize("name", ["nobody", "x" * 300, "~nosuchuser/x", "."])
def test_a_direction_that_is_not_there_is_one_sentence(name: str) -> None:
    refused(mien("show", name), InputError)


# Bad models


def save_with_tokenizer(net: Any, folder: Path) -> Path:
    net.save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def absent(folder: Path, noise: Path) -> tuple[str, str]:
    return str(folder / "nowhere"), "There is no model"


def hub_id(folder: Path, noise: Path) -> tuple[str, str]:
    return "nobody/has-this-model", "There is no model nobody/has-this-model"


def empty_folder(folder: Path, noise: Path) -> tuple[str, str]:
    return str(folder), "holds no config.json"


def plain_file(folder: Path, noise: Path) -> tuple[str, str]:
    (folder / "model.txt").write_text("x")
    return str(folder / "model.txt"), "neither a GGUF file nor a model folder"


def no_name(folder: Path, noise: Path) -> tuple[str, str]:
    return " ", "No model was named"


def not_causal_t5(folder: Path, noise: Path) -> tuple[str, str]:
    config = T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return str(save_with_tokenizer(T5ForConditionalGeneration(config), folder)), "is not a causal language model"


def not_causal_bert(folder: Path, noise: Path) -> tuple[str, str]:
    """It loads as if it were one, but its tokens look ahead; where bfloat16 hides that, it keeps no keys and values."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    net = BertLMHeadModel(BertConfig(vocab_size=300, **sizes))
    return str(save_with_tokenizer(net, folder)), "mien reads"


def torn_weights(folder: Path, noise: Path) -> tuple[str, str]:
    for path in noise.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return str(folder), "corrupt"


def rubbish_weights(folder: Path, noise: Path) -> tuple[str, str]:
    for path in noise.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)
    return str(folder), "corrupt"


def rubbish_config(folder: Path, noise: Path) -> tuple[str, str]:
    for path in noise.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text("{")
    return str(folder), "could not be loaded"


def nan_weights(folder: Path, noise: Path) -> tuple[str, str]:
    net = tiny.tiny_net()
    with torch.no_grad():
        net.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    return str(tiny.save(net, folder)), "NaN or infinity"


def bomb_weights(folder: Path, noise: Path) -> tuple[str, str]:
    for path in noise.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(bomb(folder / "went-off"))
    return str(folder), "a pickle that holds more than numbers"


MODELS = [absent, hub_id, empty_folder, plain_file, no_name, not_causal_t5, not_causal_bert, torn_weights,
          rubbish_weights, rubbish_config, nan_weights, bomb_weights]  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_that_cannot_be_used_is_one_sentence(
    make: Callable[[Path, Path], tuple[str, str]], noise: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    name, said = make(tmp_path / "model", noise)
    done = mien("extract", "is rude", "--model", name, "--out", tmp_path / "run", "--quiet")
    refused(done, ModelError, said)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "model" / "went-off").exists()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"PK\x03\x04", b"\0" * 4096])
def test_a_gguf_file_that_is_none_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path, cache = tmp_path / "x.gguf", tmp_path / "cache"
    path.write_bytes(content)
    done = mien("extract", "is rude", "--model", path, "--out", tmp_path / "run", "--quiet",
                env={"MIEN_CACHE": str(cache)})  # fmt: skip
    refused(done, FormatError, "x.gguf")
    assert not (tmp_path / "run").exists()
    assert [p.name for p in cache.rglob("*") if p.name != "gguf" and p.name != "machine.json"] == []


@pytest.mark.parametrize(("option", "value"), [("--dtype", "int4"), ("--device", "abacus")])
def test_an_unknown_dtype_or_device_is_one_sentence(option: str, value: str, noise: Path) -> None:
    refused(mien("extract", "is rude", "--model", noise, option, value, "--quiet"), InputError, value)


# Bad files


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def bomb(mark: Path) -> bytes:
    """A file that `torch.load` of old would have run."""
    return pickle.dumps(_Bomb(mark))


@pytest.mark.parametrize("shape", ["pickle", "zip"])
def test_a_pickle_bomb_does_not_go_off(shape: str, model: Path, tmp_path: Path) -> None:
    path, mark = tmp_path / "x.pt", tmp_path / "went-off"
    if shape == "pickle":
        path.write_bytes(bomb(mark))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", bomb(mark))
            archive.writestr("archive/version", "3\n")
    done = mien("import", path, "--model", model, "--out", tmp_path / "out", "--quiet")
    refused(done, FormatError, "x.pt")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.gguf", "x.json", "x"])
@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"{", None])
def test_a_file_that_holds_no_direction_is_one_sentence(
    name: str, content: bytes | None, model: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = mien("import", tmp_path / name, "--model", model, "--out", tmp_path / "out", "--quiet")
    refused(done, FormatError, name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_one_sentence(value: float, model: Path, tmp_path: Path) -> None:
    vector = torch.zeros(5, 48)
    vector[2, 3] = value
    torch.save(vector, tmp_path / "x.pt")
    done = mien("import", tmp_path / "x.pt", "--model", model, "--out", tmp_path / "out", "--quiet")
    refused(done, FormatError)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [(["nobody", "x.gguf", "--format", "gguf"], InputError), (["loud", "x.gguf", "--format", "docx"], InputError),
     (["loud", "nowhere/deep/x.gguf", "--format", "gguf"], RunError), (["loud", ".", "--format", "gguf"], InputError)],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_sentence(
    home: Path, model: Path, words: list[str], error: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere").write_text("a file")
    done = mien("export", words[0], tmp_path / words[1], *words[2:], "--model", model, "--quiet")
    refused(done, error)
    assert [p.name for p in tmp_path.iterdir()] == ["nowhere"]


# Runs that come to nothing


def test_no_rollout_kept_leaves_the_run_and_no_direction(noise: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    script: Callable[[dict[str, Any]], Step] = lambda _: ok("10")  # noqa: E731
    with FakeEndpoint(script) as fake:
        words = ("extract", "--spec", model / "loud.yaml", "--model", noise, "--out", out, "--quiet",
                 "--judge", "endpoint", "--endpoint", fake.url, "--endpoint-model", "m")  # fmt: skip
        done = mien(*words)
        refused(done, NothingKeptError, "None of the 24 rollouts could be kept (most often: ", "use a larger model")
        asked = len(fake.requests)
        left = files(out)
        assert "run/rollouts.jsonl" in left
        assert "run/scores.jsonl" in left
        assert not any(name.startswith(("card", "direction")) for name in left)
        assert mien(*words) == done
        assert len(fake.requests) == asked  # scores were kept
    assert files(out) == left


def test_answers_that_are_all_empty_are_one_sentence(model: Path, tmp_path: Path) -> None:
    net = tiny.tiny_net()
    net.generation_config.eos_token_id = list(range(259))
    silent = tiny.save(net, tmp_path / "silent")
    done = mien("extract", "--spec", model / "loud.yaml", "--model", silent, "--out", tmp_path / "run", "--quiet")
    refused(done, NothingKeptError, "All 24 answers are empty")
    assert "card.json" not in files(tmp_path / "run")


def test_activations_that_overflow_are_one_sentence(model: Path, tmp_path: Path) -> None:
    """Finite on the trial text, infinite on the system prompt's letters: met in the middle of a run."""
    net = tiny.tiny_net()
    letter = tiny.tiny_tokenizer()("!", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        net.model.embed_tokens.weight[letter] = 3e38
    hot = tiny.save(net, tmp_path / "hot")
    words = ("extract", "--spec", model / "loud.yaml", "--model", hot, "--out", tmp_path / "run", "--quiet")
    done = mien(*words)
    refused(done, ModelError, "NaN or infinity")
    left = files(tmp_path / "run")
    assert "run/plain.jsonl" in left
    assert "card.json" not in left
    assert not [name for name in left if name.endswith(".tmp")]
    assert mien(*words) == done


def test_a_folder_that_cannot_be_written_is_one_sentence(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = mien("extract", "--spec", model / "loud.yaml", "--model", model, "--out", tmp_path / "file", "--quiet")
    refused(done, RunError, "cannot be written")
    assert (tmp_path / "file").read_text() == "x"


def test_a_disk_that_is_full_at_the_last_step_leaves_no_half_direction(home: Path, model: Path, tmp_path: Path) -> None:
    done = mien("export", "loud", tmp_path / "x.pt", "--format", "persona_vectors", "--model", model, "--quiet",
                file_size=300)  # fmt: skip
    refused(done, RunError, "File too large")
    assert list(tmp_path.iterdir()) == []


# Endpoints


def scripted(payload: dict[str, Any]) -> Step:
    """A judge that tells capitals, for any answer between its marks, and finds everything coherent."""
    prompt = payload["messages"][-1]["content"]
    answer = prompt.rpartition("<answered")[2] if "<answered" in prompt else prompt.rpartition("<answer")[2]
    letters = [c for c in answer.partition(">")[2].partition("</")[0] if c.isalpha()]
    loud = sum(c.isupper() for c in letters) > len(letters) / 2
    return ok("90" if "coherence" in prompt[:120] or loud else "10")


def judged(model: Path, out: Path, url: str, *more: str) -> tuple[str | Path, ...]:
    return ("extract", "--spec", model / "loud.yaml", "--model", model, "--out", out, "--quiet", "--json",
            "--judge", "endpoint", "--endpoint", url, "--endpoint-model", "m", *more)  # fmt: skip


def test_an_endpoint_can_judge(model: Path, tmp_path: Path) -> None:
    with FakeEndpoint(scripted) as fake:
        done = mien(*judged(model, tmp_path / "run", fake.url), env={"MIEN_CACHE": str(tmp_path / "cache")})
        assert done.code == 0, done.err
    card = json.loads(done.out)
    assert (card["judge"]["kind"], card["judge"]["model"]) == ("api", "m")
    assert card["judge"]["auc"] > 0.9
    assert card["rollouts"]["kept"] >= 16
    assert {row["coherence"] for row in card["dose_response"]} == {90.0}
    jsonschema.validate(json.loads((tmp_path / "run" / "card.json").read_text()), Card.model_json_schema())


BROKEN: dict[str, tuple[Step, str]] = {
    "refuses": (status(401, "no such key"), "status 401"),
    "is not there": (status(404), "status 404"),
    "is a web page": (html(), "base URL"),
    "hangs up": (hang_up(), "broke off"),
    "breaks off": (cut_off(), "broke off"),
    "hangs": (hang(), "did not answer within"),
    "is broken": (status(500, "oops"), "status 500"),
}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""

    async def at_once(_: float) -> None:
        return

    monkeypatch.setattr("mien.endpoint.sending.pause", at_once)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("role", ["author", "judge"])
@pytest.mark.parametrize("fault", BROKEN)
def test_an_endpoint_that_fails_is_one_sentence_and_the_run_is_intact(
    fault: str, role: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process, so that the pauses between tries can be left out."""
    step, said = BROKEN[fault]
    out = tmp_path / "run"
    with FakeEndpoint(step) as fake:
        words = [str(w) for w in judged(model, out, fake.url, "--endpoint-timeout", "0.1")]
        if role == "author":
            words = ["extract", "is rude", "--author", "endpoint", "--endpoint", fake.url, "--endpoint-model", "m",
                     "--endpoint-timeout", "0.1", "--model", str(model), "--out", str(out), "--quiet"]  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(words)
    captured = capfd.readouterr()
    refused(Done(int(str(ended.value.code)), captured.out, captured.err), EndpointError, fake.host, said)
    if role == "author":
        assert not out.exists()
    else:
        assert len((out / "run" / "rollouts.jsonl").read_text().splitlines()) == 24
        assert "card.json" not in files(out)


@pytest.mark.usefixtures("hurried")
def test_an_endpoint_that_nobody_answers_at_is_one_sentence(
    noise: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeEndpoint(ok("x")) as fake:
        words = ["extract", "is rude", "--author", "endpoint", "--endpoint", fake.url, "--endpoint-model", "m",
                 "--model", str(noise), "--out", str(tmp_path / "run"), "--quiet"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(words)
    captured = capfd.readouterr()
    refused(Done(int(str(ended.value.code)), captured.out, captured.err), EndpointError, "could not be reached")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("hurried")
def test_a_run_that_an_endpoint_broke_goes_on_when_it_is_back(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = []
    for name, first in (("whole", None), ("broken", status(500))):
        monkeypatch.setenv("MIEN_CACHE", str(tmp_path / f"cache-{name}"))
        out = tmp_path / name
        with FakeEndpoint(scripted) as fake:
            if first is not None:
                with FakeEndpoint(first) as down, pytest.raises(SystemExit):
                    main([str(w) for w in judged(model, out, down.url)])
            with pytest.raises(SystemExit) as ended:
                main([str(w) for w in judged(model, out, fake.url)])
            assert ended.value.code == 0
        outs.append(files(out))
    capfd.readouterr()
    assert outs[0] == outs[1]


def test_a_run_that_an_endpoint_judges_may_be_killed_too(model: Path, tmp_path: Path) -> None:
    """What the card says of how the judge rated comes from what was kept, not from what one process happened to see."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    with FakeEndpoint(scripted) as fake:
        assert mien(*judged(model, whole, fake.url), env={"MIEN_CACHE": str(tmp_path / "a")}).code == 0
        for stage in ("scores", "yardstick", "dose-scores"):
            with running(*judged(model, out, fake.url), env={"MIEN_CACHE": str(tmp_path / "b")}) as process:
                path = out / "run" / f"{stage}.jsonl"
                assert process.until(lambda path=path: path.exists() and path.stat().st_size > 0)  # type: ignore[misc]
                assert process.kill()
        assert mien(*judged(model, out, fake.url), env={"MIEN_CACHE": str(tmp_path / "b")}).code == 0
    assert "because the endpoint gave no log-probabilities" in json.loads(files(out)["card.json"])["judge"]["note"]
    assert files(out) == files(whole)


def test_garbage_from_an_author_is_one_sentence(noise: Path, tmp_path: Path) -> None:
    with FakeEndpoint(ok("I would rather talk about something else.")) as fake:
        words = ("--author", "endpoint", "--endpoint", fake.url, "--endpoint-model", "m", "--quiet")
        done = mien("extract", "is rude", "--model", noise, "--out", tmp_path / "run", *words,
                    env={"MIEN_CACHE": str(tmp_path / "c")})  # fmt: skip
    refused(done, EndpointError)
    assert not (tmp_path / "run").exists()


def test_garbage_from_a_judge_is_missing_scores_and_one_sentence(model: Path, tmp_path: Path) -> None:
    with FakeEndpoint(ok("As a language model I cannot rate this.")) as fake:
        done = mien(*judged(model, tmp_path / "run", fake.url), env={"MIEN_CACHE": str(tmp_path / "c")})
    refused(done, NothingKeptError, "None of the 24 rollouts could be kept")
    kept = [json.loads(line) for line in (tmp_path / "run" / "run" / "scores.jsonl").read_text().splitlines()]
    assert [r["trait"] for r in kept] == [None] * 24
    assert all(r["missing"] for r in kept)
