"""Roles: the library, published folders and files, cuts, and a sentence for everything that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mien.entries import MAX_TEXT
from mien.errors import FormatError, InputError, MienError, SpecError
from mien.questions import load_questions
from mien.roles import DISTANCES, Role, RoleSet, load_roles, roles_hash
from mien.spec import library_names, load_library


def mapping(**changes: Any) -> dict[str, Any]:
    """A small valid set in the library's shape, with changes; a change to None takes the key out."""
    data: dict[str, Any] = {
        "roles": [
            {
                "name": name,
                "distance": "far",
                "who": f"a {name}",
                "ways": [f"You are a {name}.", f"Talk like a {name}."],
            }
            for name in ("pirate", "ghost", "clown")
        ],
        "questions": ["Who are you?", "What is rain?", "What is snow?"],
        "default_prompts": ["", "You are an assistant."],
    }
    return {key: value for key, value in {**data, **changes}.items() if value is not None}


def with_role(**changes: Any) -> dict[str, Any]:
    """The same with changes to its first role."""
    data = mapping()
    first = {key: value for key, value in {**data["roles"][0], **changes}.items() if value is not None}
    return {**data, "roles": [first, *data["roles"][1:]]}


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return path


def published(folder: Path, **changes: str | None) -> Path:
    """A small folder of the published shape, some of its files replaced by other text or, with None, left out."""
    files = {
        f"roles/{name}.json": json.dumps({"instruction": [{"pos": way}], "questions": [], "eval_prompt": ""})
        for name, way in {"pirate": "Be a pirate.", "ghost": "Be a ghost.", "elf": "Be an elf.", "default": ""}.items()
    }
    files["extraction_questions.jsonl"] = '{"question": "Who are you?", "id": 0}\n\n{"question": "Why?", "id": 1}\n'
    files["role_list.json"] = json.dumps({"pirate": "Robs ships.", "unheard_of": "Nobody."})
    (folder / "roles").mkdir(parents=True)
    for name, text in {**files, **changes}.items():
        if text is not None:
            write(folder / name, text)
    return folder


def sentence_of(error: pytest.ExceptionInfo[MienError]) -> str:
    """The message, checked to be one printable line that ends like a sentence."""
    message = str(error.value)
    assert message.isprintable()
    assert message.endswith((".", "?"))
    assert len(message) < 500
    return message


class TestLibrary:
    def test_is_whole(self) -> None:
        library = load_roles()
        assert len(library.roles) >= 140
        assert {len(role.ways) for role in library.roles} == {5}
        ways = [way.casefold() for role in library.roles for way in role.ways]
        assert len(set(ways)) == len(ways)
        assert len({question.casefold() for question in library.questions}) == len(library.questions) == 60
        assert len(library.default_ways) == 5
        assert "" in library.default_ways
        assert library.source == "mien library"

    def test_texts_are_short_enough_for_a_small_model(self) -> None:
        library = load_roles()
        assert {role.name: n for role in library.roles if not 12 <= (n := len(role.description.split())) <= 25} == {}
        assert [way for role in library.roles for way in role.ways if not 5 <= len(way.split()) <= 35] == []
        assert [role.name for role in library.roles if role.description.endswith(".")] == []
        assert max(len(question.split()) for question in library.questions) <= 15

    def test_is_no_template_filled_in_with_names(self) -> None:
        """Less its opening, which says who is meant, each way is still one that no other role has."""
        seen: dict[str, str] = {}
        for role in load_roles().roles:
            for way in role.ways:
                rest = " ".join(way.casefold().split()[-6:])
                assert seen.setdefault(rest, way) == way

    @pytest.mark.parametrize("n", [3, 6, 10, 20, 40, 80, 120])
    def test_any_prefix_is_a_good_spread(self, n: int) -> None:
        library = load_roles()
        whole = {d: sum(role.distance == d for role in library.roles) / len(library.roles) for d in DISTANCES}
        cut = library.first(n, 2).roles
        for distance, share in whole.items():
            assert abs(sum(role.distance == distance for role in cut) - share * n) <= 1

    def test_each_distance_has_many_and_none_comes_thrice_in_a_row(self) -> None:
        distances = [role.distance for role in load_roles().roles]
        assert all(distances.count(distance) >= 35 for distance in DISTANCES)
        assert not any(a == b == c for (a, b), (_, c) in pairwise(pairwise(distances)))

    def test_questions_are_those_of_no_trait(self) -> None:
        taken = {text for texts in load_questions().questions.values() for text in texts}
        for name in library_names():
            taken |= {*load_library(name).extract_questions, *load_library(name).eval_questions}
        assert not {text.casefold() for text in taken} & {text.casefold() for text in load_roles().questions}

    def test_is_read_once(self) -> None:
        assert load_roles() is load_roles(None)


class TestFirst:
    def test_cuts_roles_and_questions_and_nothing_else(self) -> None:
        library = load_roles()
        cut = library.first(7, 4)
        assert cut == replace(library, roles=library.roles[:7], questions=library.questions[:4])
        assert library.first(len(library.roles), len(library.questions)) == library

    @pytest.mark.parametrize(
        ("n_roles", "n_questions", "says"),
        [
            (2, 5, "2 roles cannot be had"),
            (-1, 5, "-1 roles cannot be had"),
            (10_000, 5, "10000 roles cannot be had: there are 1"),
            (5, 1, "1 questions cannot be had"),
            (5, 61, "there are 60"),
            (5.0, 5, "roles is a number; it has to be a whole number"),
            (5, True, "questions is a yes/no value"),
            ("5", 5, "roles is a text"),
        ],
    )
    def test_impossible_counts(self, n_roles: Any, n_questions: Any, says: str) -> None:
        with pytest.raises(InputError) as error:
            load_roles().first(n_roles, n_questions)
        assert says in sentence_of(error)


class TestHash:
    def test_tells_content_and_not_source(self, tmp_path: Path) -> None:
        one = load_roles(write(tmp_path / "one.yaml", mapping()))
        assert roles_hash(one) == roles_hash(load_roles(write(tmp_path / "two.yaml", mapping())))
        others = [
            replace(one, roles=one.roles[::-1]),
            replace(one, roles=(replace(one.roles[0], ways=("Be a pirate.",)), *one.roles[1:])),
            replace(one, roles=(replace(one.roles[0], description="robs ships"), *one.roles[1:])),
            replace(one, questions=one.questions[:2]),
            replace(one, default_ways=("",)),
        ]
        assert len({roles_hash(roles) for roles in [one, *others]}) == 6


class TestFile:
    def test_all_of_it(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mine.yaml", mapping())
        roles = load_roles(str(path))
        assert roles.roles[0] == Role("pirate", ("You are a pirate.", "Talk like a pirate."), "a pirate", "far")
        assert (roles.questions, roles.default_ways) == (
            ("Who are you?", "What is rain?", "What is snow?"),
            ("", "You are an assistant."),
        )
        assert roles.source == str(path)

    def test_json(self, tmp_path: Path) -> None:
        one = load_roles(write(tmp_path / "x.json", json.dumps(mapping())))
        assert roles_hash(one) == roles_hash(load_roles(write(tmp_path / "x.yml", mapping())))

    def test_the_library_stands_in_for_what_is_left_out(self, tmp_path: Path) -> None:
        bare = [{"name": role["name"], "ways": role["ways"]} for role in mapping()["roles"]]
        roles = load_roles(write(tmp_path / "x.yaml", {"roles": bare}))
        assert (roles.questions, roles.default_ways) == (load_roles().questions, load_roles().default_ways)
        assert {(role.description, role.distance) for role in roles.roles} == {("", None)}

    def test_outer_space_does_not_matter(self, tmp_path: Path) -> None:
        padded = {**with_role(ways=[" You are a pirate.\n", "Talk like a pirate. "]), "questions": ["a? ", "\nb?"]}
        roles = load_roles(write(tmp_path / "x.yaml", padded))
        assert roles.roles[0].ways == ("You are a pirate.", "Talk like a pirate.")
        assert roles.questions == ("a?", "b?")


class TestPublished:
    def test_a_folder_loads(self, tmp_path: Path) -> None:
        roles = load_roles(published(tmp_path / "axis"))
        assert [role.name for role in roles.roles] == ["elf", "ghost", "pirate"]
        assert [role.description for role in roles.roles] == ["", "", "Robs ships."]
        assert roles.roles[0].ways == ("Be an elf.",)
        assert (roles.questions, roles.default_ways) == (("Who are you?", "Why?"), ("",))
        assert roles.source == str(tmp_path / "axis")

    def test_the_role_list_may_be_missing(self, tmp_path: Path) -> None:
        roles = load_roles(published(tmp_path / "axis", **{"role_list.json": None}))
        assert {role.description for role in roles.roles} == {""}

    def test_a_question_may_come_twice(self, tmp_path: Path) -> None:
        twice = '{"question": "Why?"}\n{"question": "why?"}'
        assert load_roles(published(tmp_path / "x", **{"extraction_questions.jsonl": twice})).questions == (
            "Why?",
            "why?",
        )

    def test_odd_file_names_become_names(self, tmp_path: Path) -> None:
        folder = published(tmp_path / "axis", **{"roles/Old Sea-Dog.json": '{"instruction": [{"pos": "Arr."}]}'})
        assert "old_sea_dog" in {role.name for role in load_roles(folder).roles}

    @pytest.mark.parametrize(
        ("file", "text", "says"),
        [
            ("roles/default.json", None, "There is no role file"),
            ("roles/default.json", '{"instruction": []}', "no default prompts"),
            ("roles/elf.json", None, "3 at least"),
            ("roles/elf.json", "{", "not valid JSON"),
            ("roles/elf.json", "[]", "no list 'instruction'"),
            ("roles/elf.json", '{"instruction": "Be an elf."}', "no list 'instruction'"),
            ("roles/elf.json", '{"instruction": []}', "no ways to ask for elf"),
            ("roles/elf.json", '{"instruction": [{"pos": "a"}, {"neg": "b"}]}', "Instruction 2"),
            ("roles/elf.json", '{"instruction": [{"pos": ""}]}', "is empty"),
            ("roles/elf.json", '{"instruction": [{"pos": 3}]}', "is a number, not text"),
            ("roles/Elf.json", '{"instruction": [{"pos": "Be it."}]}', "of the roles are the same"),
            ("extraction_questions.jsonl", None, "There is no file of questions"),
            ("extraction_questions.jsonl", "", "no questions"),
            ("extraction_questions.jsonl", '{"question": "Why?"}', "2 at least"),
            ("extraction_questions.jsonl", '{"question": "Why?"}\n{', "Line 2 of"),
            ("extraction_questions.jsonl", '{"question": "Why?"}\n[1]', "no 'question'"),
            ("extraction_questions.jsonl", '{"question": "Why?"}\n{"question": null}', "Question 2 is empty"),
            ("role_list.json", "[]", "a role list is a mapping"),
            ("role_list.json", '{"elf": 5}', "The description of elf is a number"),
        ],
    )
    def test_unusable(self, file: str, text: str | None, says: str, tmp_path: Path) -> None:
        folder = published(tmp_path / "axis", **{file: text})
        with pytest.raises((SpecError, FormatError)) as error:
            load_roles(folder)
        assert says in sentence_of(error)
        assert "axis" in str(error.value)

    def test_folders_of_something_else(self, tmp_path: Path) -> None:
        folder = published(tmp_path / "axis")
        with pytest.raises(FormatError) as error:
            load_roles(folder / "roles")
        assert "give the folder above it" in sentence_of(error)
        with pytest.raises(FormatError) as error:
            load_roles(tmp_path)
        assert "no folder 'roles'" in sentence_of(error)
        with pytest.raises(FormatError) as error:
            load_roles(folder / "roles" / "elf.json")
        assert "one published role" in sentence_of(error)


@pytest.mark.reference
def test_the_published_set_loads_as_it_is(reference_data: Path) -> None:
    roles = load_roles(reference_data / "assistant_axis")
    assert (len(roles.roles), len(roles.questions), len(roles.default_ways)) == (275, 240, 5)
    assert all(len(role.ways) == 5 and role.description for role in roles.roles)
    assert "default" not in {role.name for role in roles.roles}
    assert "" in roles.default_ways
    assert roles.first(40, 5).roles == roles.roles[:40]


@pytest.mark.reference
def test_the_library_has_none_of_the_published_texts(reference_data: Path) -> None:
    theirs, ours = load_roles(reference_data / "assistant_axis"), load_roles()
    for field in ("ways", "description"):
        texts = [
            {str(text) for role in roles.roles for text in ([role.description] if field != "ways" else role.ways)}
            for roles in (theirs, ours)
        ]
        assert not texts[0] & texts[1]
    assert not set(theirs.questions) & set(ours.questions)


class TestUnusable:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (mapping(roles=None), "has no 'roles'"),
            (mapping(roles=[]), "There are no roles"),
            (mapping(roles={"pirate": 1}), "The roles are a mapping"),
            (mapping(roles=mapping()["roles"][:2]), "The roles are 2 in number"),
            (mapping(roles=mapping()["roles"] * 400), "1000 at most"),
            (mapping(roles=[*mapping()["roles"], mapping()["roles"][1]]), "Entries 2 and 4 of the roles are the same"),
            (mapping(roles=[*mapping()["roles"], "elf"]), "Role 4 is a text"),
            (mapping(questions=[]), "There are no questions"),
            (mapping(questions="Why?"), "The questions are a text"),
            (mapping(questions=["Why?"]), "The questions are 1 in number"),
            (mapping(questions=["Why?", "Who?", "why? "]), "Entries 1 and 3 of the questions"),
            (mapping(questions=["Why?", 3]), "Question 2 is a number"),
            (mapping(questions=["Why?", " "]), "Question 2 is empty"),
            (mapping(default_prompts=[]), "no default prompts"),
            (mapping(default_prompts=""), "The default prompts are a text"),
            (mapping(default_prompts=["", "  "]), "Entry 2 of the default prompts is empty"),
            (mapping(default_prompts=["", ""]), "of the default prompts are the same"),
            (mapping(question=["Why?"]), "did you mean questions?"),
            (with_role(name=None), "Role 1 has no 'name'"),
            (with_role(name=""), "The name of a role is empty"),
            (with_role(name=False), "is a yes/no value"),
            (with_role(name="../pirate"), "for example 'pirate'"),
            (with_role(name="x" * 65), "up to 64"),
            (with_role(name="GHOST"), "of the roles are the same"),
            (with_role(ways=None), "Role 1 has no 'ways'"),
            (with_role(ways=[]), "There are no ways to ask for pirate"),
            (with_role(ways="Be a pirate."), "ways to ask for pirate are a text"),
            (with_role(ways=["a", ""]), "Entry 2 of the ways to ask for pirate is empty"),
            (with_role(ways=["a", ["b"]]), "is a list, not text"),
            (with_role(ways=["Be  it.", "be it."]), "are the same"),
            (with_role(ways=["x" * (MAX_TEXT + 1)]), "4000 is the most"),
            (with_role(ways=["a\x1b[31mb"]), "U+001B"),
            (with_role(who=5), "The description of pirate is a number"),
            (with_role(who=" "), "The description of pirate is empty"),
            (with_role(distance="remote"), "one of near, middle, far"),
            (with_role(distance=["far"]), "is 'a list'; it is one of"),
            (with_role(prompts=["x"]), "unknown key 'prompts'; there are name"),
        ],
    )
    def test_content(self, data: dict[str, Any], says: str, tmp_path: Path) -> None:
        with pytest.raises(SpecError) as error:
            load_roles(write(tmp_path / "x.yaml", data))
        assert says in sentence_of(error)
        assert "x.yaml" in str(error.value)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is empty, not a mapping"),
            ("just words", "is a text, not a mapping"),
            ("- a", "is a list, not a mapping"),
            ("roles: [", "not valid YAML"),
            ("roles: !!python/object/apply:os.system ['true']", "not valid YAML"),
            ("[" * 500, "nested too deeply"),
        ],
    )
    def test_yaml(self, text: str, says: str, tmp_path: Path) -> None:
        with pytest.raises(FormatError) as error:
            load_roles(write(tmp_path / "x.yaml", text))
        assert says in sentence_of(error)
        assert "x.yaml" in str(error.value)

    def test_places(self, tmp_path: Path) -> None:
        (tmp_path / "binary.yaml").write_bytes(b"roles: \0\0")
        for where, says in [
            (tmp_path / "missing.yaml", "There is no role file"),
            (write(tmp_path / "notes.txt", "x"), "does not end in"),
            (tmp_path / "binary.yaml", "is binary"),
            (tmp_path / ("x" * 300), "cannot be read"),
            ("a\0b.yaml", "There is no role file"),
            ("~nobody-of-that-name/x.yaml", "home folder"),
            (" ", "is empty"),
            (5, "The roles are a number"),
        ]:
            with pytest.raises((FormatError, SpecError)) as error:
                load_roles(where)  # type: ignore[arg-type]
            assert says in sentence_of(error)

    def test_made_in_code(self) -> None:
        roles = tuple(Role(name, (f"Be a {name}.",)) for name in ("pirate", "ghost", "clown"))
        assert RoleSet(roles, ("Who?", "Why?"), ("",), "a test").roles == roles
        with pytest.raises(SpecError) as error:
            RoleSet((*roles, "elf"), ("Who?", "Why?"), ("",), "a test")  # type: ignore[arg-type]
        assert "Role 4 is a text" in sentence_of(error)
        with pytest.raises(SpecError) as error:
            Role("pirate", "Be a pirate.")  # type: ignore[arg-type]
        assert "are a text" in sentence_of(error)
