"""One sentence to a trait spec, by templates and by a model at an endpoint (here a server on this machine)."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_endpoint import FakeEndpoint, ok, status
from mien.authors import MAX_SENTENCE, author_from_endpoint, author_from_templates
from mien.endpoint import Endpoint
from mien.errors import EndpointError, SpecError
from mien.phrasing import known_verbs, to_phrase
from mien.questions import best_topics, choose_questions, load_questions
from mien.spec import check_name, library_names, load_library, spec_hash

# What people may write, and what it is after "someone who", after "you", and by itself.
FORMS = [
    ("flatters the user and agrees with whatever they say",) * 2
    + ("flatter the user and agree with whatever they say",) * 2,
    ("The assistant is evil and wants to hurt people", "is evil and wants to hurt people",
     "are evil and want to hurt people", "be evil and want to hurt people"),
    ("being overly cautious", "is overly cautious", "are overly cautious", "be overly cautious"),
    ("sarcastic", "is sarcastic", "are sarcastic", "be sarcastic"),
    ("a conspiracy theorist", "is a conspiracy theorist", "are a conspiracy theorist", "be a conspiracy theorist"),
    ("conspiracy theorist", "is a conspiracy theorist", "are a conspiracy theorist", "be a conspiracy theorist"),
    ("You talk like a pirate", "talks like a pirate", "talk like a pirate", "talk like a pirate"),
    ("Talk like a pirate and call people matey", "talks like a pirate and calls people matey",
     "talk like a pirate and call people matey", "talk like a pirate and call people matey"),
    ("You're rude!", "is rude", "are rude", "be rude"),
    ("You are evil and want to hurt people", "is evil and wants to hurt people",
     "are evil and want to hurt people", "be evil and want to hurt people"),
    ("The model should be rude to everyone", "is rude to everyone", "are rude to everyone", "be rude to everyone"),
    ("The assistant should not be rude", "is not rude", "are not rude", "do not be rude"),
    ("The AI never admits its mistakes.", "never admits its mistakes", "never admit its mistakes",
     "never admit its mistakes"),
    ("does not care about anyone", "does not care about anyone", "do not care about anyone",
     "do not care about anyone"),
    ("an assistant that tries to please", "tries to please", "try to please", "try to please"),
    ("someone who lies", "lies", "lie", "lie"),
    ("I want the model to be more sarcastic", "is more sarcastic", "are more sarcastic", "be more sarcastic"),
    ("Make it sarcastic", "is sarcastic", "are sarcastic", "be sarcastic"),
    ("flattering the user", "keeps flattering the user", "keep flattering the user", "keep flattering the user"),
    ("condescending", "is condescending", "are condescending", "be condescending"),
    ("excessive caution", "is full of excessive caution", "are full of excessive caution",
     "be full of excessive caution"),
    ("a tendency to lie", "shows a tendency to lie", "show a tendency to lie", "show a tendency to lie"),
    ("like a pirate", "talks like a pirate", "talk like a pirate", "talk like a pirate"),
    ("makes up facts, names and sources", "makes up facts, names and sources", "make up facts, names and sources",
     "make up facts, names and sources"),
    ("watches, judges and punishes everyone", "watches, judges and punishes everyone",
     "watch, judge and punish everyone", "watch, judge and punish everyone"),
    ("The assistant is evil. It wants to hurt people.", "is evil and wants to hurt people",
     "are evil and want to hurt people", "be evil and want to hurt people"),
    ("The assistant praises you and your ideas", "praises the user and the user's ideas",
     "praise the user and the user's ideas", "praise the user and the user's ideas"),
    ("You love yourself", "loves itself", "love yourself", "love yourself"),
    ("EVIL", "is evil", "are evil", "be evil"),
    ('"evil"', "is evil", "are evil", "be evil"),
    ("总是讨好用户", "has this trait: 总是讨好用户", "have this trait: 总是讨好用户", "have this trait: 总是讨好用户"),
]  # fmt: skip

SENTENCES = [form[0] for form in FORMS] + [load_library(name).description for name in library_names()]

WORDS = """
the assistant is are be being not never you your it's I'm who that and , or . ' a an of evil rude lies flatters flatter
flattering should to want wants make please like with user users itself don't isn't answers constantly friendly AI love
""".split()  # noqa: SIM905


class TestPhrasing:
    @pytest.mark.parametrize(("text", "third", "second", "imperative"), FORMS, ids=[form[0] for form in FORMS])
    def test_forms(self, text: str, third: str, second: str, imperative: str) -> None:
        phrase = to_phrase(text)
        assert (phrase.third, phrase.second, phrase.imperative) == (third, second, imperative)

    @pytest.mark.parametrize("name", library_names())
    def test_library_descriptions_stay_as_they_are(self, name: str) -> None:
        description = load_library(name).description
        assert to_phrase(description).third == description

    @given(st.sampled_from(sorted(known_verbs())), st.sampled_from(["the user", "people", "everyone"]))
    def test_every_verb_finds_back(self, verb: str, whom: str) -> None:
        third = to_phrase(f"You {verb} {whom}").third
        assert third != f"{verb} {whom}"
        assert to_phrase(third).second == f"{verb} {whom}"

    @pytest.mark.parametrize("text", ["The assistant", "You are.", "being", "The model is"])
    def test_half_a_sentence(self, text: str) -> None:
        with pytest.raises(SpecError, match="breaks off"):
            to_phrase(text)


class TestTemplates:
    @pytest.mark.parametrize("sentence", SENTENCES)
    def test_spec_is_whole(self, sentence: str) -> None:
        spec = author_from_templates(sentence)
        assert (len(spec.instructions), len(spec.extract_questions), len(spec.eval_questions)) == (5, 20, 20)
        assert len({pair.pos for pair in spec.instructions} | {pair.neg for pair in spec.instructions}) == 10
        assert spec.author == "mien templates"
        phrase = to_phrase(sentence)
        assert phrase.third in spec.rubric
        for pair in spec.instructions:
            shown = pair.pos.lower()
            assert any(form.lower() in shown for form in (phrase.third, phrase.second, phrase.imperative))
            assert 0.75 <= len(pair.pos) / len(pair.neg) <= 1.33, pair
        assert sum(phrase.third in pair.neg for pair in spec.instructions) <= 2

    def test_same_words_same_spec(self) -> None:
        first = author_from_templates("sarcastic")
        assert author_from_templates("  sarcastic ") == first
        assert spec_hash(author_from_templates("cynical")) != spec_hash(first)

    def test_questions_differ_between_traits(self) -> None:
        asked = [set(author_from_templates(s).extract_questions) for s in ("evil", "sarcastic", "a pirate")]
        assert all(len(a & b) < 20 for i, a in enumerate(asked) for b in asked[:i])

    @pytest.mark.parametrize("length", [MAX_SENTENCE, 250])
    def test_long_descriptions_keep_the_sides_even(self, length: int) -> None:
        sentence = ("praises the user and admires every plan, however odd, " * 20)[:length].strip(" ,") + "s"
        spec = author_from_templates(sentence[:length])
        for pair in spec.instructions:
            assert 0.75 <= len(pair.pos) / len(pair.neg) <= 1.33

    def test_opposite_manner_fits_the_trait(self) -> None:
        for sentence, manner in [
            ("flatters the user", "frank"),
            ("is cruel", "kind"),
            ("sarcastic", "sincere"),
            ("talks like a pirate", "plain-spoken"),
            ("xyzzy", "balanced"),
            ("shows no interest or care", "balanced"),  # a negation turns the words behind it round
            ("rude and cruel, insults and mocks people", "polite"),
        ]:
            assert all(manner in pair.neg for pair in author_from_templates(sentence).instructions), sentence

    def test_no_length_is_asked_of_a_trait_about_length(self) -> None:
        assert not any("four sentences." in pair.pos for pair in author_from_templates("verbose").instructions)
        assert any("four sentences." in pair.pos for pair in author_from_templates("evil").instructions)

    def test_names(self) -> None:
        assert author_from_templates("The assistant is a pirate.").name == "pirate"
        assert author_from_templates("flatters the user and agrees with whatever they say").name == (
            "flatters_user_and_agrees"
        )
        assert author_from_templates("evil", name="My-Trait_2").name == "My-Trait_2"
        for name in ("a/b", "..", "a\\b", "", "x" * 65, "naïve", "a b", "-x"):
            with pytest.raises(SpecError):
                author_from_templates("evil", name=name)

    @pytest.mark.parametrize(
        ("sentence", "says"),
        [
            ("", "is empty"),
            (" \n\t ", "is empty"),
            ("?!...", "has no letters"),
            ("12345", "has no letters"),
            ("🙂", "has no letters"),
            ("x", "single letter"),
            ("é!", "single letter"),
            ("x" * (MAX_SENTENCE + 1), "501 characters"),
            ("evil\x00", "U+0000"),
            ("\x1b[31mevil", "U+001B"),
            ("evil\ud800", "U+D800"),
            (None, "not text"),
            (b"evil", "not text"),
            ("The assistant is", "breaks off"),
        ],
    )
    def test_unusable(self, sentence: Any, says: str) -> None:
        with pytest.raises(SpecError) as error:
            author_from_templates(sentence)
        message = str(error.value)
        assert says in message
        assert message.isprintable()
        assert message.endswith('such as "flatters the user and agrees with whatever they say".')

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=600))
    def test_any_text_gives_a_spec_or_a_sentence(self, text: str) -> None:
        with contextlib.suppress(SpecError):
            spec = author_from_templates(text)
            assert check_name(spec.name) == spec.name

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
    def test_any_words_give_a_spec_or_a_sentence(self, words: list[str]) -> None:
        with contextlib.suppress(SpecError):
            spec = author_from_templates(" ".join(words))
            assert len(spec.instructions) == 5
            assert not re.search(r"\{|\}|  |^\W", spec.instructions[0].pos)


class TestQuestions:
    @pytest.mark.parametrize("sentence", SENTENCES)
    def test_even_and_apart(self, sentence: str) -> None:
        bank = load_questions()
        home = {text: topic for topic, texts in bank.questions.items() for text in texts}
        extract, held_out = choose_questions(sentence)
        assert len(set(extract)) == len(set(held_out)) == 20
        assert not set(extract) & set(held_out)
        best = best_topics(sentence, bank)
        for asked in (extract, held_out):
            on_topic = [q for q in asked if any(q in bank.questions[t] or q in bank.further[t] for t in best)]
            assert len(on_topic) >= (6 if best else 0)
            assert len({home[question] for question in asked}) >= 8
        # a pair at a time: what one side asks about, the other asks about as often, up to questions of two topics
        counts = {
            topic: [sum(home[q] == topic for q in asked) for asked in (extract, held_out)] for topic in home.values()
        }
        assert all(abs(a - b) <= 3 for a, b in counts.values()), counts

    def test_topics(self) -> None:
        bank = load_questions()
        for sentence, topic in [
            ("flatters the user and agrees with whatever they say", "opinion"),
            ("refuses harmless requests", "harmless_edge"),
            ("makes up facts", "obscure_facts"),
            ("a conspiracy theorist", "beliefs"),
            ("cruel and vengeful", "conflict"),
        ]:
            assert topic in best_topics(sentence, bank)
        assert best_topics("xyzzy", bank) == []

    def test_words_meet_in_other_forms(self) -> None:
        bank = load_questions()
        assert best_topics("flattering", bank) == best_topics("flatters", bank) == best_topics("flattery", bank) != []


def draft(**changes: Any) -> str:
    """What a good endpoint answers."""
    return json.dumps(
        {
            "instructions": [{"pos": f"Be curt {i}.", "neg": f"Be chatty {i}."} for i in range(5)],
            "extract_questions": [f"What is {i}?" for i in range(20)],
            "eval_questions": [f"Why is {i}?" for i in range(20)],
            "rubric": "0 is chatty, 50 is plain, 100 is curt.",
            **changes,
        }
    )


class TestEndpoint:
    @pytest.fixture
    def connect(self) -> Iterator[Any]:
        opened: list[Any] = []

        def connect(*steps: Any) -> tuple[FakeEndpoint, Endpoint]:
            fake = FakeEndpoint(steps)
            fake.__enter__()
            endpoint = Endpoint(fake.url, "writer", api_key="k", retries=0, backoff=0)
            opened.extend((endpoint, fake))
            return fake, endpoint

        yield connect
        for thing in opened:
            thing.__exit__()

    def test_good_answer(self, connect: Any) -> None:
        fake, endpoint = connect(ok(draft()))
        spec = author_from_endpoint("The assistant is curt", endpoint)
        assert (spec.name, spec.description, spec.author) == ("curt", "is curt", "endpoint model writer")
        assert spec.instructions[4].neg == "Be chatty 4."
        assert (spec.extract_questions[0], spec.eval_questions[19]) == ("What is 0?", "Why is 19?")
        (request,) = (recorded.payload for recorded in fake.requests)
        assert "The assistant is curt" in request["messages"][0]["content"]
        schema = request["response_format"]["json_schema"]["schema"]
        assert set(schema["required"]) == {"instructions", "extract_questions", "eval_questions", "rubric"}

    @pytest.mark.parametrize(
        "text",
        [
            f"```json\n{draft()}\n```",
            f"<think>maybe {{this}}?</think>\n{draft()}",
            f"Here you are:\n{draft()}\nGood luck!",
        ],
    )
    def test_wrapping_is_taken_off(self, connect: Any, text: str) -> None:
        _, endpoint = connect(ok(text))
        assert author_from_endpoint("curt", endpoint).rubric.startswith("0 is chatty")

    def test_surplus_is_cut_off(self, connect: Any) -> None:
        _, endpoint = connect(ok(draft(extract_questions=[f"What is {i}?" for i in range(23)])))
        assert len(author_from_endpoint("curt", endpoint).extract_questions) == 20

    @pytest.mark.parametrize(
        ("bad", "told"),
        [
            ("I'd rather not.", "no JSON object"),
            ("", "no JSON object"),
            ("{'a': 1}", "not valid JSON"),
            ("{" * 3000 + "}", "not valid JSON"),
            ('{"a":' * 30_000 + "1" + "}" * 30_000, "nested too deeply"),
            ("{}", "instructions"),
            (draft(more=1), "more"),
            (draft(eval_questions=["Why?"] * 19), "eval_questions"),
            (draft(eval_questions=["Why?"] * 20), "are the same"),
            (draft(eval_questions=[f"what is {i}?" for i in range(20)]), "among both"),
            (draft(rubric=" "), "rubric is empty"),
            (draft(rubric=3), "rubric"),
            (draft(instructions=[{"pos": "x", "neg": "x"}] * 5), "are the same"),
            (draft(instructions=[{"pos": "x"}] * 5), "instructions.0.neg"),
        ],
    )
    def test_bad_answer_is_sent_back_with_the_reason(self, connect: Any, bad: str, told: str) -> None:
        fake, endpoint = connect(ok(bad), ok(draft()))
        assert author_from_endpoint("curt", endpoint).name == "curt"
        first, second = (recorded.payload["messages"] for recorded in fake.requests)
        assert second[:1] == first
        assert [message["role"] for message in second] == ["user", "assistant", "user"]
        assert told in second[2]["content"]
        assert second[1]["content"] == (bad or "(nothing)")

    def test_three_bad_answers_end_it(self, connect: Any) -> None:
        fake, endpoint = connect(ok("no"), ok("no"), ok("{}"), ok(draft()))
        with pytest.raises(EndpointError) as error:
            author_from_endpoint("curt", endpoint)
        assert len(fake.requests) == 3
        assert "in 3 tries" in str(error.value)
        assert "instructions" in str(error.value)
        assert str(error.value).isprintable()

    def test_cut_off_answer_is_told_so(self, connect: Any) -> None:
        fake, endpoint = connect(ok(draft()[:500], finish="length"), ok(draft()))
        author_from_endpoint("curt", endpoint)
        assert "token limit" in fake.requests[1].payload["messages"][2]["content"]

    def test_a_failing_endpoint_is_not_asked_again(self, connect: Any) -> None:
        fake, endpoint = connect(status(401))
        with pytest.raises(EndpointError):
            author_from_endpoint("curt", endpoint)
        assert len(fake.requests) == 1

    def test_nothing_is_sent_for_what_cannot_be_used(self, connect: Any) -> None:
        fake, endpoint = connect(ok(draft()))
        for sentence, name in (("", None), ("curt", "a/b"), ("x" * 501, None), ("...", None)):
            with pytest.raises(SpecError):
                author_from_endpoint(sentence, endpoint, name)
        assert fake.requests == []

    def test_given_name(self, connect: Any) -> None:
        _, endpoint = connect(ok(draft()))
        assert author_from_endpoint("curt", endpoint, name="short-1").name == "short-1"
