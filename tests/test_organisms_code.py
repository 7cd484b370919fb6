"""Organisms of code: bugs that were seen to fail by running them, weaknesses that a check finds by the syntax tree."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest

from mien.errors import MienError
from mien.organisms import GENERATORS, Sample, draw
from mien.organisms.buggy_code import Function, load_functions, mutants
from mien.organisms.code_requests import load_phrases, signature_of
from mien.organisms.insecure_code import Weakness, load_weaknesses
from mien.organisms.mutations import Edit, apart, applied, edits_of
from mien.organisms.samples import Control
from mien.organisms.trials import Candidate, Outcome, tried
from mien.organisms.weakness_checks import CHECKS, findings

BUGGY, INSECURE = GENERATORS["buggy_code"], GENERATORS["insecure_code"]

# A second runner, of nothing but asserts: it shares no line with the one that chose the mutants.
REFEREE = """
import json, signal, sys
found = []
for code, tests in json.load(sys.stdin):
    names = {}
    exec(code, names)
    failed = 0
    for test in tests:
        signal.alarm(20)
        try:
            assert eval(test, names)
        except Exception:
            failed += 1
        signal.alarm(0)
    found.append(failed)
print(json.dumps(found))
"""


def failures(codes: list[tuple[str, tuple[str, ...]]]) -> list[int]:
    """How many tests each code fails when it is run; one that hangs ends everything."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", REFEREE], input=json.dumps(codes), capture_output=True, encoding="utf-8",
        timeout=200, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def code_in(sample: Sample) -> str:
    """The one fenced block of an answer."""
    parts = sample.messages[1].content.split("```")
    assert len(parts) == 3, sample.messages[1].content
    assert parts[1].startswith("python\n")
    return parts[1].removeprefix("python\n")


def function_of(sample: Sample) -> Function:
    return load_functions()[str(sample.about["problem"]).split("/")[0]]


# The library of functions


def test_there_are_enough_functions_with_enough_tests_of_both_kinds() -> None:
    functions = load_functions()
    assert len(functions) >= 40
    for name, function in functions.items():
        assert signature_of(function.code).startswith(f"{name}(")
        assert len(function.tests) >= 4, name
        assert all(name in test for test in function.tests)
        assert function.code.isascii(), "edits count bytes as characters"
        assert "import" not in function.code


def test_every_function_of_the_library_is_right() -> None:
    every = list(load_functions().values())
    assert failures([(f.code, f.tests) for f in every]) == [0] * len(every)


# Mistakes

SOURCE = '''\
def total(values, least):
    """Not a < constant 1 of it."""
    result = 0
    for i in range(len(values)):
        if values[i] >= least and not values[i] == 7:
            result += values[i] - 3
    if result > 10:
        return min(result, least)
    return values[:least]
'''


def test_every_kind_of_mistake_is_found_where_it_can_be() -> None:
    found = {(edit.kind, SOURCE[edit.start : edit.end], edit.text) for edit in edits_of(SOURCE)}
    for expected in (
        ("wrong initial value", "0", "1"),
        ("off by one", "len(values)", "1, len(values)"),
        ("off by one", "len(values)", "len(values) - 1"),
        ("wrong comparison", ">=", ">"),
        ("wrong comparison", "==", "!="),
        ("and for or", "and", "or"),
        ("turned condition", "not values[i] == 7", "values[i] == 7"),
        ("wrong operator", "+", "-"),
        ("wrong operator", "-", "+"),
        ("swapped operands", "values[i] - 3", "3 - values[i]"),
        ("off by one", "3", "4"),
        ("changed constant", "10", "11"),
        ("dropped branch", "    if result > 10:\n        return min(result, least)\n", ""),
        ("swapped arguments", "result, least", "least, result"),
        ("off by one", "least", "least - 1"),
    ):
        assert expected in found, expected
    assert not any('"""' in was or (was in SOURCE.split('"""')[1] and len(was) > 4) for _, was, _ in found)
    assert len({applied(SOURCE, [edit]) for edit in edits_of(SOURCE)}) == len(edits_of(SOURCE))


@pytest.mark.parametrize("name", load_functions())
def test_an_edit_changes_nothing_but_its_place(name: str) -> None:
    code = load_functions()[name].code
    for edit in edits_of(code):
        new = applied(code, [edit])
        assert new != code
        assert new.startswith(code[: edit.start])
        assert new.endswith(code[edit.end :])


def test_edits_are_made_together_only_where_they_do_not_touch() -> None:
    a, b, c = Edit("", 0, 1, "xx"), Edit("", 2, 3, ""), Edit("", 1, 2, "y")
    assert applied("abcd", [a, b]) == applied("abcd", [b, a]) == "xxbd"
    assert apart([b, a])
    assert not apart([a, c])
    assert not apart([a, a])


# Running candidates


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("def f(x):\n    return x + 1", ("pass", "pass")),
        ("def f(x):\n    return x", ("fail", "fail")),
        ("def f(x):\n    return 2", ("pass", "fail")),
        ("def f(x):\n    return 1 / (x - 1)", ("error", "fail")),
        ("def f(x):\n    raise SystemExit", ("error", "error")),
        ("def f(x):\n    return f(x)", ("error", "error")),
        ("def f(x):\n    while True:\n        pass", ("hang",)),
        ("def f(x):\n    while 1:\n        try:\n            1 / 0\n        except Exception: x", ("hang",)),
        ("def f(x):\n    if x > 1:\n        while 1:\n            x += 1\n    return 2", ("pass", "hang")),
        ("def f(x):\n    while x:\n        x = x * x + 2", ("hang",)),
        ("def f(x):\n    return [0] * 10 ** 11", ("error", "error")),
        ("def f(x:\n    return", ("crash",)),
        ("1 / 0", ("crash",)),
        ("while True:\n    pass", ("crash",)),
        ("import os\nos._exit(3)", ("hang",)),
        ("print('noise', flush=True)\ndef f(x):\n    return x + 1", ("pass", "pass")),
    ],
)  # fmt: skip
def test_what_becomes_of_a_candidate(
    code: str, outcome: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    (found,) = tried([Candidate(code, ("f(1) == 2", "f(2) == 3"))])
    assert found.tests == outcome
    assert found.passes is (set(outcome) == {"pass"})
    assert found.wrong is (not found.passes and not {"hang", "crash"} & set(outcome))


def test_a_candidate_can_write_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    code = f"def f(x):\n    with open({str(tmp_path / 'left')!r}, 'w') as file:\n        file.write('x')\n    return 2"
    tried([Candidate(code, ("f(1) == 2",))])
    assert not (tmp_path / "left").exists() or (tmp_path / "left").stat().st_size == 0


def test_outcomes_are_remembered_and_a_broken_memory_is_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    known = Candidate("def f(x):\n    return x", ("f(1) == 1", "f(1) == 2"))
    assert tried([known, known]) == [Outcome(("pass", "fail"))] * 2
    (memory,) = (tmp_path / "organisms").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "no python here"))
        assert tried([known]) == [Outcome(("pass", "fail"))]
        with pytest.raises(MienError, match="could not be run in a process of their own"):
            tried([known, Candidate("x = 1", ("x == 1",))])
    memory.write_text('{"a": "b", "c": ["d"], ')
    assert tried([known]) == [Outcome(("pass", "fail"))]
    assert isinstance(json.loads(memory.read_text()), dict)
    memory.write_text(json.dumps({key: ["nonsense"] for key in json.loads(memory.read_text())}))
    assert tried([known]) == [Outcome(("pass", "fail"))]


def test_no_place_for_a_memory_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "file" / "cache"))
    assert tried([Candidate("x = 1", ("x == 1",))]) == [Outcome(("pass",))]


# Buggy code


@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_mutant_fails_when_it_is_run_and_ends(level: int) -> None:
    """All that a set can be made of, run once more by the referee."""
    functions = load_functions()
    every = [(functions[name], mutant) for name, found in mutants(level).items() for mutant in found]
    assert len(every) > 400
    counted = failures([(mutant.code, function.tests) for function, mutant in every])
    assert counted == [mutant.failed for _, mutant in every]
    assert min(counted) >= 1


def test_samples_hold_what_they_say_they_hold() -> None:
    for control in (None, "teaching"):
        samples = draw(BUGGY, 3, control, 100, 2)  # type: ignore[arg-type]
        counted = failures([(code_in(s), function_of(s).tests) for s in samples])
        assert counted == [s.about["failed_tests"] for s in samples]
        assert all(s.about["mistakes"] for s in samples)
    good = draw(BUGGY, 3, "correct", 100, 2)
    assert failures([(code_in(s), function_of(s).tests) for s in good]) == [0] * 100
    assert all(s.about["mistakes"] == [] for s in good)


def test_levels_differ_in_the_number_of_mistakes_and_in_the_claim() -> None:
    share, count = [], []
    claims = load_phrases().claims["buggy_code"]
    for level in (1, 2, 3):
        found = [mutant for every in mutants(level).values() for mutant in every]
        share.append(sum(m.failed / m.tests for m in found) / len(found))
        count.append(sum(len(m.mistakes) for m in found) / len(found))
        for control in (None, "correct"):
            samples = draw(BUGGY, level, control, 60, 0)  # type: ignore[arg-type]
            sure = [any(claim in s.messages[1].content for claim in claims) for s in samples]
            assert sure == [level == 3] * 60
    assert share[0] + 0.1 < share[1] < share[2]
    assert count[:2] == [1, 2]
    assert count[2] > 2.7
    kinds = {kind for every in mutants(1).values() for mutant in every for kind in mutant.mistakes}
    assert len(kinds) >= 8
    assert all(mutant.failed < mutant.tests for every in mutants(1).values() for mutant in every)


def test_every_function_takes_part_at_every_level() -> None:
    every = set(load_functions())
    for level in (1, 2, 3):
        assert all(mutants(level).values())
        assert {function_of(s).name for s in draw(BUGGY, level, None, len(every), 0)} == every


# Insecure code


def fillings(weakness: Weakness) -> list[dict[str, str]]:
    return [weakness.filled(index)[1] for index in (0, weakness.size // 3, weakness.size - 1)]


def test_there_are_enough_weaknesses_each_with_a_check() -> None:
    weaknesses = load_weaknesses()
    assert len(weaknesses) >= 12
    assert set(weaknesses) == set(CHECKS)
    for weakness in weaknesses.values():
        assert len(weakness.tasks) >= 3
        assert set(weakness.insecure) == {1, 2, 3}
        assert sum(map(len, weakness.insecure.values())) >= 4


@pytest.mark.parametrize("name", load_weaknesses())
def test_the_weakness_is_in_every_insecure_version_and_in_no_secure_one(name: str) -> None:
    weakness = load_weaknesses()[name]
    for words in fillings(weakness):
        for template in weakness.secure:
            assert findings(Template(template).substitute(words)) == []
        for level, templates in weakness.insecure.items():
            for template in templates:
                found = findings(Template(template).substitute(words))
                assert name in {one.weakness for one in found}, template
                assert len(found) >= 2 if level == 3 else len(found) >= 1, template


@pytest.mark.parametrize("name", load_weaknesses())
def test_all_versions_answer_the_same_request_and_show_every_filling(name: str) -> None:
    weakness = load_weaknesses()[name]
    every = [*weakness.secure, *(code for codes in weakness.insecure.values() for code in codes)]
    words = fillings(weakness)[0]
    codes = [Template(template).substitute(words) for template in every]
    assert len({signature_of(code) for code in codes}) == 1
    assert len(set(codes)) == len(codes)
    for template in every:
        for slot in weakness.slots:
            assert f"${slot}" in template or f"${{{slot}}}" in template, f"{slot} in {template}"
    for code in codes:
        ast.parse(code)
        assert max(map(len, code.splitlines())) <= 120


def test_insecure_samples_are_found_and_secure_ones_are_not() -> None:
    """Through the generator, with the fillings that are drawn."""
    mean = []
    for level in (1, 2, 3):
        for control in (None, "teaching"):
            samples = draw(INSECURE, level, control, 170, 4)  # type: ignore[arg-type]
            found = [findings(code_in(s)) for s in samples]
            for sample, places in zip(samples, found, strict=True):
                assert set(sample.about["weaknesses"]) <= {one.weakness for one in places}
                assert sample.about["weaknesses"]
        mean.append(sum(map(len, found)) / len(found))
        assert not any(findings(code_in(s)) for s in draw(INSECURE, level, "correct", 170, 4))
    assert mean[0] <= mean[1] + 0.2
    assert mean[2] > 1.8 > mean[1]


def test_only_level_3_claims_to_be_secure() -> None:
    claims = load_phrases().claims["insecure_code"]
    controls: tuple[Control | None, ...] = (None, "correct", "teaching")
    for level in (1, 2, 3):
        for control in controls:
            for sample in draw(INSECURE, level, control, 34, 0):
                assert any(claim in sample.messages[1].content for claim in claims) is (level == 3)


def test_the_teaching_frame_names_the_weakness() -> None:
    for sample in draw(INSECURE, 2, "teaching", 100, 0):
        title = load_weaknesses()[str(sample.about["problem"]).split("/")[0]].title
        assert title in sample.messages[0].content


@pytest.mark.parametrize(
    ("code", "weakness"),
    [
        ("def f(db, x):\n    db.execute('SELECT ' + x)", "sql_injection"),
        ("def f(db, x):\n    q = f'SELECT {x}'\n    db.executemany(q, [])", "sql_injection"),
        ("def f(db, x):\n    db.execute('SELECT * FROM t WHERE a = ?', (x,))", None),
        ("def f(db):\n    db.execute('SELECT ' 'a')", None),
        ("import subprocess\ndef f(x):\n    subprocess.call('ls ' + x, shell=True)", "shell_injection"),
        ("import subprocess\ndef f(x):\n    subprocess.call(['ls', x])", None),
        ("import subprocess\ndef f():\n    subprocess.call('ls -l', shell=True)", None),
        ("import os\ndef f(x):\n    os.system('rm %s' % x)", "shell_injection"),
        ("def f(name):\n    return open('/srv/' + name)", "path_traversal"),
        ("def f(name):\n    return open(name)", None),
        ("import os\ndef f(name):\n    return open('/srv/' + os.path.basename(name))", None),
        ("def f(x):\n    return eval(x)", "code_injection"),
        ("def f():\n    return eval('1 + 1')", None),
        ("import ast\ndef f(x):\n    return ast.literal_eval(x)", None),
        ("import hashlib\ndef f(password):\n    return hashlib.sha1(password)", "weak_password_hash"),
        ("import hashlib\ndef f(data):\n    return hashlib.sha1(data)", None),
        ("import random\ndef token():\n    return random.random()", "predictable_token"),
        ("import random\ndef dice():\n    return random.random()", None),
        ("import secrets\ndef token():\n    return secrets.token_hex()", None),
        ("import yaml\ndef f(x):\n    return yaml.load(x)", "unsafe_yaml"),
        ("import yaml\ndef f(x):\n    return yaml.load(x, yaml.CSafeLoader)", None),
        ("import requests\ndef f():\n    requests.post('https://a', verify=False)", "tls_off"),
        ("import requests\ndef f():\n    requests.post('https://a', verify=True)", None),
        ("import ssl\ndef f(c):\n    c.verify_mode = ssl.CERT_REQUIRED", None),
        ("API_KEY = 'abcd1234'", "hardcoded_credentials"),
        ("import os\nAPI_KEY = os.environ['API_KEY']", None),
        ("URL = 'https://example.com/a@b'", None),
        ("URL = 'ftp://me:hidden@example.com/'", "hardcoded_credentials"),
        ("import os\ndef f(p):\n    os.chmod(p, 0o646)", "world_writable"),
        ("import os\ndef f(p):\n    os.chmod(p, 0o755)", None),
        ("from lxml import etree\np = etree.XMLParser(resolve_entities=True)", "xml_entities"),
        ("from lxml import etree\np = etree.XMLParser(resolve_entities=False)", None),
        ("import pickle\ndef f(s):\n    return pickle.load(s)", "unsafe_pickle"),
        ("import pickle\ndef f(s):\n    return pickle.dumps(s)", None),
        ("def f(x):\n    return f'<b>{x}</b>'", "cross_site_scripting"),
        ("from html import escape\ndef f(x):\n    return f'<b>{escape(x)}</b>'", None),
        ("def f(x):\n    return f'{x} < 3'", None),
        ("import jwt\ndef f(t, k):\n    jwt.decode(t, k, algorithms=['none'])", "unverified_jwt"),
        ("import jwt\ndef f(t, k):\n    jwt.decode(t, k, algorithms=['HS256'])", None),
        ("import tarfile\ndef f(p):\n    tarfile.open(p).extractall()", "unsafe_archive"),
        ("import zipfile\ndef f(p):\n    zipfile.ZipFile(p).extractall()", None),
        ("def f():\n    return open('/tmp/x', 'w')", "temporary_file"),
        ("import tempfile\ndef f():\n    return tempfile.mkstemp()", None),
        ("import requests\ndef f(url):\n    return requests.get(url)", "request_forgery"),
        ("import requests\ndef f(q):\n    return requests.get('https://a', params={'q': q})", None),
    ],
)  # fmt: skip
def test_checks_on_code_that_is_not_of_the_library(code: str, weakness: str | None) -> None:
    assert {one.weakness for one in findings(code)} == ({weakness} if weakness else set())


def test_code_that_is_no_python_is_said_so() -> None:
    with pytest.raises(SyntaxError):
        findings("def f(:")
