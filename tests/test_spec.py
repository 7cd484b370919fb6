"""Trait specs: the library, files in and out, and a sentence for everything that cannot be used."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.entries import MAX_TEXT
from mien.errors import FormatError, RunError, SpecError
from mien.questions import load_questions
from mien.spec import (
    InstructionPair,
    TraitSpec,
    check_name,
    export_published,
    library_names,
    load_library,
    load_neutral,
    load_spec,
    save_spec,
    slug,
    spec_from_mapping,
    spec_hash,
    spec_to_mapping,
)


def mapping(**changes: Any) -> dict[str, Any]:
    """A small valid trait in the library's shape, with changes; a change to None takes the key out."""
    data: dict[str, Any] = {
        "name": "curt",
        "description": "answers in as few words as can be",
        "instructions": [{"pos": "Be curt.", "neg": "Be chatty."}, {"pos": "Say little.", "neg": "Say plenty."}],
        "extract_questions": ["How are you?", "What is rain?"],
        "eval_questions": ["What is snow?"],
        "rubric": "0 means chatty.\n50 means plain.\n100 means curt.",
        "author": "a test",
    }
    return {key: value for key, value in {**data, **changes}.items() if value is not None}


def published(**changes: Any) -> dict[str, Any]:
    """A small trait file in the published shape."""
    data: dict[str, Any] = {
        "instruction": [{"pos": "Be curt.", "neg": "Be chatty."}],
        "questions": ["How are you?", "What is rain?", "What is snow?"],
        "eval_prompt": "Does the answer show the trait: **curt**. Curt answers use few words. They stop early.\n\n"
        "Prompt:\n[QUESTION START]\n{question}\n[QUESTION END]\n\nModel response:\n{answer}",
    }
    return {key: value for key, value in {**data, **changes}.items() if value is not None}


def write(path: Path, data: object) -> Path:
    text = data if isinstance(data, str) else json.dumps(data) if path.suffix == ".json" else yaml.safe_dump(data)
    path.write_text(text, encoding="utf-8")
    return path


def sentence_of(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message, checked to be one printable line that ends like a sentence."""
    message = str(error.value)
    assert message.isprintable()
    assert message.endswith((".", "?"))
    return message


class TestLibrary:
    @pytest.mark.parametrize("name", library_names())
    def test_trait_is_complete_and_even(self, name: str) -> None:
        spec = load_library(name)
        assert spec.name == name
        assert (len(spec.instructions), len(spec.extract_questions), len(spec.eval_questions)) == (5, 20, 20)
        for pair in spec.instructions:
            assert 0.8 <= len(pair.pos) / len(pair.neg) <= 1.25, f"length would stand in for {name}: {pair}"
        for anchor in ("0 means", "50 means", "100"):
            assert anchor in spec.rubric.replace("\n", " ")

    def test_has_the_fifteen(self) -> None:
        assert len(library_names()) == 15
        assert {"evil", "sycophantic", "hallucinating", "overcautious"} <= set(library_names())

    def test_general_questions_belong_to_no_trait(self) -> None:
        bank = load_questions()
        general = [text for texts in bank.questions.values() for text in texts]
        assert len(general) == len({text.casefold() for text in general}) >= 150
        taken = {
            text.casefold()
            for name in library_names()
            for text in load_library(name).extract_questions + load_library(name).eval_questions
        }
        assert not taken & {text.casefold() for text in general}

    def test_neutral(self) -> None:
        neutral = load_neutral()
        assert len(neutral.texts) >= 20
        assert len(neutral.harmless_requests) >= 2 * len(neutral.harmful_requests) >= 20
        assert all(phrase == phrase.lower() and phrase.strip() == phrase for phrase in neutral.refusals)
        assert all(len(text.split()) > 40 for text in neutral.texts)

    def test_unknown_name_suggests_close_ones(self) -> None:
        with pytest.raises(SpecError) as error:
            load_library("sycophant")
        assert "did you mean sycophantic?" in sentence_of(error)
        with pytest.raises(SpecError) as error:
            load_spec("evli")
        assert "did you mean evil?" in sentence_of(error)
        with pytest.raises(SpecError, match="there are apathetic, "):
            load_spec("qqqqqq")

    def test_name_wins_over_a_file_of_that_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "evil", "nothing")
        assert load_spec("evil").author == "mien library"
        with pytest.raises(FormatError, match="does not end in"):
            load_spec("./evil")


class TestRoundTrip:
    @pytest.mark.parametrize("name", library_names())
    def test_yaml(self, name: str, tmp_path: Path) -> None:
        spec = load_library(name)
        assert load_spec(save_spec(spec, tmp_path / "new" / "x.yaml")) == spec

    @pytest.mark.parametrize("name", ["evil", "verbose"])
    @pytest.mark.parametrize("half", [0, 1])
    def test_published(self, name: str, half: int, tmp_path: Path) -> None:
        spec = load_library(name)
        again = load_spec(export_published(spec, tmp_path / "out")[half])
        assert {**spec_to_mapping(again), "author": spec.author} == spec_to_mapping(spec)

    def test_published_prompt_can_be_filled(self, tmp_path: Path) -> None:
        spec = spec_from_mapping(mapping(rubric="Look for {braces} and {question}. 0 means none."))
        path, _ = export_published(spec, tmp_path)
        judge = json.loads(path.read_text(encoding="utf-8"))["eval_prompt"]
        filled = judge.format(question="Why?", answer="Because.")
        assert "Look for {braces} and {question}." in filled
        assert "Why?" in filled
        assert "Because." in filled
        assert load_spec(path).rubric == spec.rubric

    def test_published_shape(self, tmp_path: Path) -> None:
        files = export_published(load_library("evil"), tmp_path)
        assert [path.name for path in files] == ["evil.extract.json", "evil.eval.json"]
        first, second = (json.loads(path.read_text(encoding="utf-8")) for path in files)
        assert list(first) == ["instruction", "questions", "eval_prompt"]
        assert {tuple(pair) for pair in first["instruction"]} == {("pos", "neg")}
        assert (first["instruction"], first["eval_prompt"]) == (second["instruction"], second["eval_prompt"])
        assert not set(first["questions"]) & set(second["questions"])

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_text_survives(self, data: st.DataObject, tmp_path: Path) -> None:
        text = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t:#'\"|>-"), max_size=60)
        visible = text.map(lambda value: f"x{value}y")
        texts = data.draw(st.lists(visible, min_size=4, max_size=8, unique_by=lambda value: slug(value + repr(value))))
        try:
            spec = TraitSpec(
                "a-b", texts[0], (InstructionPair(texts[1], texts[2]),), tuple(texts[3:-1]) or ("q",), (texts[-1],),
                texts[0], texts[1],
            )  # fmt: skip
        except SpecError:  # texts that only look different
            return
        assert load_spec(save_spec(spec, tmp_path / "x.yaml")) == spec
        assert {**spec_to_mapping(load_spec(export_published(spec, tmp_path)[0])), "author": "", "rubric": ""} == {
            **spec_to_mapping(spec),
            "author": "",
            "rubric": "",
        }

    def test_hash_tells_content_and_not_author(self) -> None:
        spec = spec_from_mapping(mapping())
        assert spec_hash(spec) == spec_hash(spec_from_mapping(mapping(author="somebody else")))
        others = [
            spec_hash(spec_from_mapping(mapping(**{key: value})))
            for key, value in {
                "name": "other",
                "description": "other",
                "rubric": "other",
                "eval_questions": ["other"],
                "extract_questions": ["What is rain?", "How are you?"],
                "instructions": [{"neg": "Be curt.", "pos": "Be chatty."}],
            }.items()
        ]
        assert len({spec_hash(spec), *others}) == 7

    def test_failed_write_leaves_the_old_file_alone(self, tmp_path: Path) -> None:
        spec = spec_from_mapping(mapping())
        (tmp_path / "file").write_text("here")
        for path in (tmp_path, tmp_path / "file" / "x.yaml"):
            with pytest.raises(RunError):
                save_spec(spec, path)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]
        assert (tmp_path / "file").read_text() == "here"

    def test_json_of_the_library_shape(self, tmp_path: Path) -> None:
        assert load_spec(write(tmp_path / "x.json", mapping())) == spec_from_mapping(mapping())

    def test_author_is_optional_in_a_file(self, tmp_path: Path) -> None:
        assert load_spec(str(write(tmp_path / "x.yml", mapping(author=None)))).author == "file"

    def test_outer_space_and_a_byte_order_mark_do_not_matter(self, tmp_path: Path) -> None:
        padded = mapping(eval_questions=["  What is snow?\n"], description="answers in\n  as few words as can be ")
        text = "\ufeff" + yaml.safe_dump(padded)
        assert load_spec(write(tmp_path / "x.yaml", text)) == spec_from_mapping(mapping())


class TestPublished:
    def test_either_half_finds_the_other(self, tmp_path: Path) -> None:
        write(tmp_path / "curt.extract.json", published(questions=["a?", "b?"]))
        write(tmp_path / "curt.eval.json", published(questions=["c?"]))
        specs = [load_spec(tmp_path / f"curt.{part}.json") for part in ("extract", "eval")]
        assert specs[0] == specs[1]
        assert (specs[0].name, specs[0].extract_questions, specs[0].eval_questions) == ("curt", ("a?", "b?"), ("c?",))
        assert specs[0].description == "Curt answers use few words"
        assert "Curt answers use few words. They stop early." in specs[0].rubric
        assert "QUESTION" not in specs[0].rubric

    def test_halves_in_two_folders(self, tmp_path: Path) -> None:
        for part in ("extract", "eval"):
            (tmp_path / f"trait_data_{part}").mkdir()
            write(tmp_path / f"trait_data_{part}" / "curt.json", published(questions=[f"{part}?"]))
        for part in ("extract", "eval"):
            spec = load_spec(tmp_path / f"trait_data_{part}" / "curt.json")
            assert (spec.extract_questions, spec.eval_questions) == (("extract?",), ("eval?",))

    def test_single_file_is_dealt_out_alternately(self, tmp_path: Path) -> None:
        spec = load_spec(write(tmp_path / "curt.json", published(questions=list("abcde"), eval_prompt=None)))
        assert (spec.extract_questions, spec.eval_questions) == (("a", "c", "e"), ("b", "d"))
        assert spec.description == "is curt"
        assert '"curt"' in spec.rubric

    def test_questions_in_both_halves_serve_evaluation(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write(tmp_path / "curt.extract.json", published(questions=["a?", "B?", "c?"]))
        write(tmp_path / "curt.eval.json", published(questions=["b? ", "d?"]))
        with caplog.at_level(logging.WARNING):
            spec = load_spec(tmp_path / "curt.extract.json")
        assert (spec.extract_questions, spec.eval_questions) == (("a?", "c?"), ("b?", "d?"))
        assert "1 of the extract questions" in caplog.text

    def test_trait_list_describes(self, tmp_path: Path) -> None:
        (tmp_path / "instructions").mkdir()
        write(tmp_path / "trait_list.json", {"curt": "Says little. Stops."})
        path = write(tmp_path / "instructions" / "curt.json", published(eval_prompt=None))
        assert load_spec(path).description == "Says little. Stops."
        assert "Says little. Stops." in load_spec(path).rubric
        write(tmp_path / "trait_list.json", "{broken")
        assert load_spec(path).description == "is curt"

    def test_odd_file_names_become_names(self, tmp_path: Path) -> None:
        assert load_spec(write(tmp_path / "Very Curt (2).json", published())).name == "very_curt_2"

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (published(questions=["one?"]), "two at least"),
            (published(questions=[]), "no list of 'questions'"),
            (published(questions="why?"), "no list of 'questions'"),
            (published(questions=None), "no list of 'questions'"),
            (published(instruction=[]), "no instructions"),
            (published(instruction="x"), "The instructions are a text"),
            (published(instruction=[{"pos": "You are a pirate."}]), "no 'neg'"),
            (published(questions=["a?", 3]), "is a number, not text"),
            (published(questions=["a?", "b?", "a?"]), "are the same"),
            ({"assistant": "helps"}, "not a trait"),
            ([1, 2], "holds a list"),
            ("{", "not valid JSON"),
            ("[" * 100_000, "nested too deeply"),
            ('{"instruction": [{"pos": "x\\ud800", "neg": "b"}], "questions": ["a?", "b?"]}', "U+D800"),
        ],
    )
    def test_unusable(self, data: object, says: str, tmp_path: Path) -> None:
        with pytest.raises((SpecError, FormatError)) as error:
            load_spec(write(tmp_path / "curt.json", data))
        assert says in sentence_of(error)
        assert "curt.json" in str(error.value)

    def test_half_alone(self, tmp_path: Path) -> None:
        path = write(tmp_path / "curt.eval.json", published())
        with pytest.raises(FormatError, match=r"curt\.extract\.json is missing"):
            load_spec(path)
        write(tmp_path / "curt.extract.json", {"questions": ["a?"]})
        with pytest.raises(FormatError, match=r"curt\.extract\.json has no 'instruction'"):
            load_spec(path)

    def test_nothing_left_to_extract(self, tmp_path: Path) -> None:
        for part in ("extract", "eval"):
            path = write(tmp_path / f"curt.{part}.json", published())
        with pytest.raises(FormatError, match="none is left"):
            load_spec(path)


class TestUnusable:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"instructions": []}, "no instructions"),
            ({"instructions": None}, "has no 'instructions'"),
            ({"instructions": ["be curt"]}, "pair 1 is a text"),
            ({"instructions": [{"pos": "a", "neg": " A "}]}, "are the same"),
            ({"instructions": [{"pos": "", "neg": "b"}]}, "'pos' of instruction pair 1 is empty"),
            ({"instructions": [{"pos": "a", "neg": ["b"]}]}, "'neg' of instruction pair 1 is a list"),
            ({"instructions": [{"pos": "a"}]}, "no 'neg'"),
            ({"extract_questions": []}, "no extract questions"),
            ({"eval_questions": None}, "has no 'eval_questions'"),
            ({"eval_questions": {"a?": 1}}, "are a mapping"),
            ({"eval_questions": "Why?"}, "are a text"),
            ({"eval_questions": ["a?", True]}, "Entry 2 of the eval questions is a yes/no"),
            ({"eval_questions": ["  "]}, "Entry 1 of the eval questions is empty"),
            ({"eval_questions": ["\u200b"]}, "is empty"),
            ({"eval_questions": ["What  is SNOW?", "what is snow?"]}, "Entries 1 and 2 of the eval questions"),
            ({"eval_questions": ["how are  you?"]}, "among both"),
            ({"eval_questions": ["x" * (MAX_TEXT + 1)]}, "4000 is the most"),
            ({"eval_questions": [f"{i}?" for i in range(1001)]}, "1000 is the most"),
            ({"eval_questions": ["a\x1b[31mb"]}, "U+001B"),
            ({"rubric": 5}, "The rubric is a number"),
            ({"rubric": None}, "has no 'rubric'"),
            ({"description": " "}, "The description is empty"),
            ({"name": "../evil"}, "for example 'evil'"),
            ({"name": "a b"}, "for example 'a_b'"),
            ({"name": ""}, "name is empty"),
            ({"name": "x" * 65}, "64 is the most"),
            ({"name": ".hidden"}, "cannot be a trait's name"),
            ({"questions": ["a?"]}, "'questions' is unknown; did you mean"),
        ],
    )
    def test_content(self, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
        data = mapping(**changes)
        with pytest.raises(SpecError) as error:
            spec_from_mapping(data)
        assert says in sentence_of(error)
        with pytest.raises(SpecError) as error:
            load_spec(write(tmp_path / "x.yaml", data))
        assert says in sentence_of(error)
        assert "x.yaml" in str(error.value)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is empty"),
            ("# nothing", "is empty"),
            ("just words", "holds a text"),
            ("- a\n- b", "holds a list"),
            ("a: [b", "not valid YAML: line"),
            ("a: b: c", "not valid YAML: line 1"),
            ("name: !!python/object/apply:os.system ['true']", "not valid YAML"),
            ("name: !!int ''", "not valid YAML"),
            ("name: !!timestamp x", "not valid YAML"),
            ("name: 2024-13-45", "not valid YAML"),
            ("[" * 500, "nested too deeply"),
            ("colour: red", "not a trait"),
            ("name: no\nrubric: x", "has no 'description'"),
        ],
    )
    def test_yaml(self, text: str, says: str, tmp_path: Path) -> None:
        with pytest.raises((SpecError, FormatError)) as error:
            load_spec(write(tmp_path / "x.yaml", text))
        assert says in sentence_of(error)
        assert "x.yaml" in str(error.value)

    def test_aliases_that_multiply_stay_small(self, tmp_path: Path) -> None:
        lines = ["a: &a0 [x, x]", *(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
        path = write(tmp_path / "x.yaml", "\n".join([*lines, "name: *a29"]))
        with pytest.raises(SpecError) as error:
            load_spec(path)
        assert len(sentence_of(error)) < 500

    def test_files(self, tmp_path: Path) -> None:
        (tmp_path / "binary.yaml").write_bytes(b"name: \0\0")
        (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
        (tmp_path / "huge.yaml").write_bytes(b"#" * (8 * 2**20 + 1))
        (tmp_path / "notes.txt").write_text("name: x")
        os.mkfifo(tmp_path / "pipe.yaml")
        for path, says in [
            (tmp_path, "is a folder"),
            (tmp_path / "missing.yaml", "There is no trait file"),
            (tmp_path / "notes.txt", "does not end in"),
            (tmp_path / "binary.yaml", "is binary"),
            (tmp_path / "latin.yaml", "not UTF-8"),
            (tmp_path / "huge.yaml", "larger than 8 MiB"),
            (tmp_path / "pipe.yaml", "not a regular file"),
            (tmp_path / ("x" * 5000 + ".yaml"), "cannot be read"),
            (Path("a\0b.yaml"), "There is no trait file"),
            (Path("~nobody-of-that-name/x.yaml"), "home folder"),
        ]:
            with pytest.raises(FormatError) as error:
                load_spec(path)
            assert says in sentence_of(error)

    @pytest.mark.parametrize("text", ["", " ", "x" * 5000, "no such trait", "a\0b"])
    def test_words_that_name_nothing(self, text: str) -> None:
        with pytest.raises(SpecError) as error:
            load_spec(text)
        assert len(sentence_of(error)) < 500

    def test_made_in_code(self) -> None:
        good = spec_from_mapping(mapping())
        assert isinstance(good.instructions[0], InstructionPair)
        with pytest.raises(SpecError, match="has to be an InstructionPair"):
            TraitSpec("a", "b", ({"pos": "a", "neg": "b"},), ("c",), ("d",), "e", "f")  # type: ignore[arg-type]
        with pytest.raises(SpecError, match="this is a list"):
            spec_from_mapping([])


class TestNames:
    @given(st.text(max_size=200), st.integers(min_value=14, max_value=60))
    def test_slug_is_always_a_name(self, text: str, length: int) -> None:
        name = slug(text, length)
        assert 0 < len(name) <= length
        assert check_name(name) == name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
        assert slug(text, length) == name

    def test_slug_cuts_between_words(self) -> None:
        assert slug("Flatters the user, and agrees with everything!") == "flatters_the_user_and_agrees_with"
        assert slug("naïve café") == "naive_cafe"
        assert slug("x" * 50) == "x" * 40
        assert slug("总是讨好") != slug("讨好")
        assert slug("总是讨好").startswith("trait_")


@pytest.mark.reference
class TestReference:
    def test_four_traits_in_two_files(self, reference_data: Path) -> None:
        files = sorted((reference_data / "persona_vectors").glob("*.json"))
        assert len(files) >= 8
        for path in files:
            spec = load_spec(path)
            assert (len(spec.instructions), len(spec.extract_questions), len(spec.eval_questions)) == (5, 20, 20)
            raw = json.loads(path.read_text(encoding="utf-8"))
            part = spec.extract_questions if path.stem.endswith(".extract") else spec.eval_questions
            assert list(part) == raw["questions"]
            assert spec.description in " ".join(raw["eval_prompt"].split())
            assert "QUESTION" not in spec.rubric

    def test_each_of_the_240(self, reference_data: Path, tmp_path: Path) -> None:
        folder = reference_data / "assistant_axis" / "traits"
        listed = json.loads((folder / "trait_list.json").read_text(encoding="utf-8"))
        files = sorted((folder / "instructions").glob("*.json"))
        assert len(files) >= 240
        for path in files:
            spec = load_spec(path)
            raw = json.loads(path.read_text(encoding="utf-8"))
            assert sorted(spec.extract_questions + spec.eval_questions) == sorted(raw["questions"])
            assert abs(len(spec.extract_questions) - len(spec.eval_questions)) <= 1
            assert [(p.pos, p.neg) for p in spec.instructions] == [(p["pos"], p["neg"]) for p in raw["instruction"]]
            assert spec.description == listed[path.stem]
        assert load_spec(export_published(spec, tmp_path)[0]).rubric == spec.rubric

    def test_a_role_is_no_trait(self, reference_data: Path) -> None:
        with pytest.raises(SpecError, match="a role has only 'pos'"):
            load_spec(reference_data / "assistant_axis" / "roles" / "pirate.json")
