"""The page in a real browser on a real server: a person chats, holds, pushes, sees an alarm and opens the history."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import serving
import tiny
from mien.gauges import save_gauges
from mien.models import Model, wrap
from mien.serve.conductor import Limits
from serving import Api, until
from visitor import Visitor, visiting

pytest.importorskip("gradio", reason="the page is made with Gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
ATTACK = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A model that shouts when it is told to, a gauge that hears it, and a ceiling to hold it by."""
    folder, model = tmp_path_factory.mktemp("ui"), tiny.tiny_model(tiny.taught_net())
    gauges = save_gauges(serving.gauges_of(model, folder), folder / "gauges.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(folder))
        serving.keep_direction(model, low=-40.0, high=-20.0)
        with serving.serving(
            model, ui=True, gauge_files=(gauges,), gauges=("loud", "odd"), hold="shout", policy="alert",
            limits=Limits(max_tokens=30),
        ) as api:  # fmt: skip
            yield api


@pytest.fixture
def page(browser: Any, api: Api) -> Iterator[Visitor]:
    with visiting(browser, api) as visitor:
        yield visitor
        assert visitor.complaints == []
        assert visitor.hosts == {f"127.0.0.1:{api.port}"}, "nothing is fetched from elsewhere"


def test_a_person_chats(page: Visitor) -> None:
    assert page.page.title() == "tiny · mien"
    assert page.sigma("loud") == []
    page.sample(0, 30)
    for turn in (1, 2):
        page.say("What now?")
        assert page.page.input_value("#message textarea") == ""
        assert page.focused() == "message"
        assert len(page.answers()) == turn
        assert len(page.sigma("loud")) == 1
        assert page.page.locator("#drift .dot").count() == turn
    assert set(page.answers()[0].split()) <= set(tiny.WORDS)
    assert page.page.locator("#now").inner_text().strip() == ""
    assert "loud" in page.page.locator("#past .meta").first.inner_text()
    page.page.click("#reset")
    page.page.wait_for_selector(".welcome")
    assert page.sigma("loud") == []
    assert page.page.locator("#drift .dot").count() == 0


def test_what_the_page_shows_is_what_the_api_says(page: Visitor, api: Api) -> None:
    page.sample(0, 30)
    page.say("What now?")
    told = api.chat([{"role": "user", "content": "What now?"}], max_tokens=30, mien={"gauges": ["loud"]}).json()
    assert page.answers() == [told["choices"][0]["message"]["content"].strip()]
    assert page.sigma("loud") == [pytest.approx(told["mien"]["readings"][0]["sigma"], abs=0.051)]


def test_drift_is_alarmed_and_leads_to_its_history(page: Visitor) -> None:
    page.sample(0, 30)
    page.instruct("SHOUT!")
    for question in tiny.QUESTIONS[:3]:
        page.say(question)
    assert page.answers()[-1].isupper()
    row = page.page.locator('#gauges button[data-gauge="loud"]')
    assert "drifted high" in row.inner_text()
    assert "drifted since message" in page.page.locator("#drift-title").inner_text()
    first = page.page.locator("#alarms button").first
    assert "this conversation" in first.inner_text()
    first.click()
    page.page.wait_for_selector("#history-heading")
    assert not page.page.locator("#main").is_visible()
    assert page.focused() == "history-heading"
    turns = page.page.locator("#turns .turn.model")
    assert turns.count() == 3
    assert [t.rstrip() for t in turns.locator(".text").all_inner_texts()][-1].isupper(), "the visitor was there"
    assert "loud" in turns.last.locator(".readings").inner_text()
    assert page.page.locator("#turns .drift .dot").count() == 3
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector("#message textarea")
    assert page.focused() == "message"
    assert len(page.answers()) == 3


def test_alarms_of_others_come_by_themselves(page: Visitor, api: Api) -> None:
    before = page.page.locator("#alarms .where").all_inner_texts()
    shout = [{"role": "system", "content": "SHOUT!"}, {"role": "user", "content": "What now?"}]
    found = api.chat(shout, max_tokens=30, mien={"gauges": ["loud"], "conversation": "someone-else"}).json()
    assert found["mien"]["alarms"], found["mien"]
    page.page.wait_for_function("document.querySelector('#alarms button')?.dataset.conversation === 'someone-else'")
    assert page.page.locator("#alarms .where").all_inner_texts() != before
    page.page.locator("#alarms button").first.click()
    page.page.wait_for_selector("#turns .turn.model")
    assert "keeps readings and no texts" in page.page.locator("#turns").inner_text()


def test_a_link_leads_to_a_conversation(browser: Any, api: Api) -> None:
    api.chat(max_tokens=5, mien={"conversation": "linked"})
    with visiting(browser, api, query="?conversation=linked") as page:
        page.page.wait_for_selector("#turns .turn.model")
        assert "linked" in page.page.locator("#turns").inner_text()


def test_the_same_message_is_answered_plain_and_held(page: Visitor) -> None:
    page.sample(0, 30)
    page.instruct("SHOUT!")
    page.way("Side by side")
    page.say("What now?")
    plain, held = page.answers()
    assert plain.isupper()
    assert plain != held
    loud, quiet = page.sigma("loud")
    assert quiet < loud
    assert re.search(r"[1-9]\d*%", page.page.locator("#hold").inner_text())
    for mark in ("circle.plain", "rect.held"):
        assert page.page.locator(f"#drift {mark}").count() == 2, "the point and the key"
    page.way("Held")
    page.page.wait_for_function("document.querySelectorAll('#past .turn.model').length === 1")
    assert page.answers() == [held]
    page.say("Any news?")
    assert len(page.answers()) == 2
    assert len(page.sigma("loud")) == 1


def test_a_slider_pushes(page: Visitor) -> None:
    page.sample(0, 30)
    page.say("What now?")
    quiet = page.sigma("loud")[0]
    slider = page.page.get_by_label("range slider for shout")
    slider.focus()
    for _ in range(8):
        page.page.keyboard.press("ArrowRight")
    assert page.page.get_by_label("number input for shout").input_value() == "2"
    page.page.click("#reset")
    page.page.wait_for_selector(".welcome")
    page.say("What now?")
    assert page.sigma("loud")[0] > quiet + 1
    assert "pushed: shout +2" in page.page.locator("#past .meta").inner_text()


def test_another_gauge_is_charted_and_tinted(page: Visitor) -> None:
    page.say("What now?")
    assert page.page.locator('#gauges [aria-pressed="true"]').get_attribute("data-gauge") == "loud"
    page.page.click('#gauges button[data-gauge="odd"]')
    page.page.wait_for_function("document.querySelector('#drift-title').innerText.includes('odd')")
    assert page.page.locator('#gauges [aria-pressed="true"]').get_attribute("data-gauge") == "odd"
    assert "odd" in page.page.locator("#legend").inner_text()
    assert page.focused() == "gauges"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_chat_comes_first_and_nothing_overflows(browser: Any, api: Api, scheme: str) -> None:
    with visiting(browser, api, 390, 844, color_scheme=scheme, has_touch=True) as page:
        assert page.overflow <= 0
        page.way("Side by side")
        page.say("W" * 300)
        page.say("What now?")
        assert page.overflow <= 0
        tops = page.page.evaluate(
            "['#talk', '#composer', '#gauges', '#drift', '#alarms'].map(s => document.querySelector(s).offsetTop "
            "+ document.querySelector(s).offsetParent.getBoundingClientRect().top)"
        )
        assert tops == sorted(tops)
        say = page.page.locator("#send").bounding_box()
        assert say["y"] + say["height"] <= 844, "what is said next is in view"
        paper = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 150) == (scheme == "dark")
        if page.page.locator("#alarms button").count():
            page.page.locator("#alarms button").first.click()
            page.page.wait_for_selector("#turns .turn.model")
            assert page.overflow <= 0


def test_by_keyboard_alone(page: Visitor) -> None:
    assert page.focused() == "message"
    page.page.keyboard.type("What now?")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#past .turn.model")
    page.page.wait_for_selector("#send", state="visible")
    reached, unseen = [], []
    for _ in range(40):
        page.page.keyboard.press("Tab")
        where = page.focused()
        reached.append(where)
        seen = page.page.evaluate(
            "[document.activeElement, document.activeElement.parentElement].some("
            "e => e && getComputedStyle(e).outlineStyle !== 'none')"
        )
        if where and not seen:
            unseen.append(where)
    assert {"send", "settings", "gauges", "reset"} <= set(reached)
    assert unseen == [], "what has the focus is seen to have it"
    unnamed = page.page.evaluate(
        """[...document.querySelectorAll('button, input, textarea, [tabindex="0"]')].filter(e => e.offsetParent &&
        !(e.getAttribute('aria-label') || e.innerText || e.labels?.length)).map(e => e.outerHTML)"""
    )
    assert unnamed == [], "everything that can be used has a name"


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Never stops by itself."""
    folder, model = tmp_path_factory.mktemp("talker"), serving.endless()
    gauges = save_gauges(serving.gauges_of(model, folder), folder / "gauges.safetensors")
    with serving.serving(model, ui=True, gauge_files=(gauges,), limits=Limits(max_tokens=4000)) as api:
        yield api


def running(api: Api) -> int:
    return api.server.engine.load().running


def test_escape_stops_and_keeps_what_was_written(browser: Any, talker: Api) -> None:
    with visiting(browser, talker) as page:
        page.sample(1, 1900)
        page.say("Go on.", wait=False)
        page.page.wait_for_function("document.querySelector('#now .model .text')?.innerText.length > 20")
        live = page.page.locator('#gauges button[data-gauge="loud"] .value').inner_text()
        assert re.search(r"\d", live), "the gauge moves while the answer is written"
        assert page.page.locator("#now .needle, #gauges .needle.live").count()
        assert running(talker) == 1
        page.page.keyboard.press("Escape")
        page.page.wait_for_selector("#past .turn.model")
        assert until(lambda: running(talker) == 0), "the slot is free"
        assert len(page.answers()[0]) > 20
        assert "stopped" in page.page.locator("#past .meta").inner_text()
        assert page.focused() == "message"


def test_a_closed_tab_frees_its_slots(browser: Any, talker: Api) -> None:
    with visiting(browser, talker) as page:
        page.sample(1, 1900)
        page.say("Go on.", wait=False)
        page.page.wait_for_function("document.querySelector('#now .model .text')?.innerText.length > 5")
        assert running(talker) == 1
    assert until(lambda: running(talker) == 0)


def attacking() -> Model:
    """A model that answers everything with markup."""
    net, tokenizer = tiny.tiny_net(), tiny.tiny_tokenizer()
    asked = [{"role": "user", "content": "Go."}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*start, *tokenizer(ATTACK + "<|im_end|>", add_special_tokens=False)["input_ids"]]])
    labels = ids.clone()
    labels[:, : len(start)] = -100
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    net.train()
    for _ in range(150):
        loss = net(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss.item() < 0.01:
            break
    return wrap(net.eval(), tokenizer, "attacker")


def test_markup_of_model_and_user_does_not_run(browser: Any) -> None:
    with serving.serving(attacking(), ui=True, limits=Limits(max_tokens=200)) as api, visiting(browser, api) as page:
        assert "Nothing is read" in page.page.locator("#gauges").inner_text()
        page.sample(0, 200)
        page.say("Go.")
        assert page.answers() == [ATTACK]
        page.say(ATTACK)
        assert page.page.locator("#past .turn.you .text").last.inner_text() == ATTACK
        assert page.page.locator("#talk img, #talk script").count() == 0
        assert page.page.title() == "attacker · mien"
        page.page.evaluate(
            "document.querySelector('#past').insertAdjacentHTML('beforeend', "
            "`<img src=x onerror=\"document.title='in'\">`)"
        )
        page.page.wait_for_function("document.querySelector('#past img').complete")
        page.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.page.title() == "attacker · mien", "even markup that got in runs nothing"
        assert any("Content Security Policy" in line for line in page.complaints)


def test_a_full_server_says_so_and_gives_the_message_back(browser: Any, talker: Api) -> None:
    conductor = talker.server.conductor
    with visiting(browser, talker) as page:
        conductor.draining = True
        try:
            page.say("Are you there?", wait=False)
            page.page.wait_for_selector("#now .notice")
            assert "shutting down" in page.page.locator("#now .notice").inner_text()
        finally:
            conductor.draining = False
        assert page.page.input_value("#message textarea") == "Are you there?"
        assert page.answers() == []
        assert page.page.locator("#send").is_visible()


def test_an_open_page_does_not_keep_the_server_from_ending(browser: Any) -> None:
    with serving.serving(serving.brief(), ui=True, drain=25.0) as api, visiting(browser, api) as page:
        page.say("What now?")
        api.runner.stop()
        assert until(lambda: not api.runner.server_state.connections, 15), "long before it would be cut off"


def test_only_the_page_is_there(api: Api) -> None:
    assert api.get("/ui/").status_code == 200
    assert api.get("/ui", follow_redirects=True).status_code == 200
    for path in ("gradio_api/info", "gradio_api/file=/etc/hostname", "gradio_api/openapi.json", "docs", "monitoring"):
        assert api.get(f"/ui/{path}").status_code == 404, path
    assert api.post("/ui/gradio_api/upload", files={"files": b"x"}).status_code == 404
    assert api.post("/ui/gradio_api/run/send", json={"data": []}).status_code == 404
    strange = api.get("/ui/config", headers={"Origin": f"http://127.0.0.1:{api.port}"})
    assert "access-control-allow-origin" not in strange.headers
    assert api.get("/ui/", headers={"Origin": "http://elsewhere.example"}).status_code == 403


@pytest.mark.model
def test_with_the_embedded_model(browser: Any) -> None:
    from mien.models import load

    settings: dict[str, Any] = {"hold": "assistant", "policy": "alert", "limits": Limits(max_tokens=12)}
    with serving.serving(load(), ui=True, **settings) as api, visiting(browser, api) as page:
        page.way("Side by side")
        page.say("Who are you?")
        assert len(page.answers()) == 2
        assert len(page.sigma("assistant")) == 2
        assert "%" in page.page.locator("#hold").inner_text()
