"""The studio page in a real Chromium: draw, watch, keep a layout or a picture, start from one, cooperate, be refused, in both
languages and on a phone."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import NEEDED
from tests.serve.local import LocalServer

pytestmark = [
    pytest.mark.browser,
    NEEDED,
]
SLOW_MS = 30_000


@pytest.fixture
def page(browser: Browser, server: LocalServer) -> Iterator[Page]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1200, "height": 900})
    context.set_default_timeout(SLOW_MS)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda request: failures.append(request.url) if _is_foreign(request.url, server) else None)
    page.goto(f"{server.url}/studio")
    expect(page.locator("#release")).to_contain_text("release 0", timeout=SLOW_MS)
    yield page
    assert not failures
    context.close()


def _is_foreign(url: str, server: LocalServer) -> bool:
    return not url.startswith((server.url, "data:"))


def draw(page: Page, prompt: str = "a red apple", steps: int = 6, drawn: int = 1) -> None:
    page.fill("#prompt", prompt)
    page.locator("#steps").fill(str(steps))
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(drawn, timeout=SLOW_MS)


@pytest.mark.long
def test_the_document_of_the_api_is_shown_without_another_server(browser: Browser, server: LocalServer) -> None:
    page = browser.new_page()
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if _is_foreign(request.url, server) else None)
    page.on("console", lambda message: foreign.append(message.text) if message.type == "error" else None)
    page.goto(f"{server.url}/docs")
    page.get_by_text("/v1/images/generations").first.click(timeout=SLOW_MS)
    expect(page.get_by_text("num_inference_steps").first).to_be_visible(timeout=SLOW_MS)
    assert not foreign
    page.goto(server.url)
    expect(page).to_have_url(f"{server.url}/studio")
    page.close()


def test_it_draws_shows_partial_images_and_keeps_the_picture_with_its_parameters(page: Page) -> None:
    seen: list[str] = page.evaluate(
        "() => { window.seen = []; new MutationObserver(() => window.seen.push(document.getElementById('state').textContent))"
        ".observe(document.getElementById('state'), {childList: true}); return window.seen; }"
    )
    draw(page, "一只狐狸")
    seen = page.evaluate("() => window.seen")
    assert [text for text in seen if text.startswith("Partial image")]
    assert seen[-1].startswith("Done in")
    caption = page.locator("#gallery figcaption").first
    expect(caption).to_contain_text("一只狐狸")
    expect(caption).to_contain_text("96x96, 6 steps, ")
    width = page.evaluate("() => document.querySelector('#gallery img').naturalWidth")
    assert width == 96


@pytest.mark.long
def test_text_that_is_too_long_to_be_read_is_shown_with_the_picture_in_both_languages(page: Page) -> None:
    draw(page, "一只狐狸" * 20)
    for place in ("#unread", "#gallery figcaption .unread"):
        expect(page.locator(place)).to_contain_text("prompt: “…")
        expect(page.locator(place)).to_contain_text("狐狸一只狐狸”")
    expect(page.locator("#unread")).to_contain_text("Too long")
    page.click("#language")
    draw(page, "a red apple " * 20, drawn=2)
    expect(page.locator("#unread")).to_contain_text("未被读取")
    draw(page, "a red apple", drawn=3)
    expect(page.locator("#unread")).to_be_hidden()


def test_reuse_draws_the_same_picture_again(page: Page) -> None:
    draw(page)
    page.fill("#prompt", "something else")
    page.locator("#gallery").get_by_role("button", name="Reuse").click()
    assert page.input_value("#prompt") == "a red apple"
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(2, timeout=SLOW_MS)
    sources = page.evaluate("() => [...document.querySelectorAll('#gallery img')].map((each) => each.src)")
    assert sources[0] == sources[1]


def test_a_kept_layout_is_rendered_from_the_cache_in_another_style(page: Page) -> None:
    draw(page)
    page.get_by_role("button", name="Keep layout").click()
    expect(page.locator("#kept")).to_be_visible()
    page.get_by_text("Mix and strength").click()
    page.locator("#style-photo").fill("3")
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(2, timeout=SLOW_MS)
    expect(page.locator("#state")).to_contain_text("layout from the cache")
    sources = page.evaluate("() => [...document.querySelectorAll('#gallery img')].map((each) => each.src)")
    assert sources[0] != sources[1]
    page.get_by_role("button", name="Let go").click()
    expect(page.locator("#kept")).to_be_hidden()
    # To reuse a picture with a layout of its own is to reuse the layout.
    page.locator("#gallery").get_by_role("button", name="Reuse").first.click()
    expect(page.locator("#kept")).to_be_visible()
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(3, timeout=SLOW_MS)
    sources = page.evaluate("() => [...document.querySelectorAll('#gallery img')].map((each) => each.src)")
    assert sources[0] == sources[1]


def test_a_partner_draws_along_with_a_control_image(page: Page) -> None:
    page.locator("#coop summary").click()
    page.get_by_label("edges").check()
    page.fill("#prompt", "an apple")
    page.click("#draw")
    expect(page.locator("#error")).to_contain_text("needs a control image")
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), "white").save(picture, "JPEG")
    control: Any = {"name": "edges.jpg", "mimeType": "image/jpeg", "buffer": picture.getvalue()}
    page.set_input_files("#control", control)
    draw(page, steps=2)
    expect(page.locator("#error")).to_be_hidden()


def test_a_style_is_one_choice_or_a_mixture_and_reuse_keeps_it(page: Page) -> None:
    sent: list[dict[str, Any]] = []
    drawing = "/v1/images/generations"
    page.on("request", lambda request: sent.append(request.post_data_json) if request.url.endswith(drawing) else None)
    expect(page.get_by_label("plain")).to_be_checked()
    draw(page)
    page.get_by_label("cartoon", exact=True).check()
    draw(page, drawn=2)
    expect(page.locator("#gallery figcaption").first).to_contain_text("cartoon")
    page.get_by_text("Mix and strength").click()
    page.locator("#style-photo").fill("0.5")
    for name in ("plain", "photo", "cartoon"):
        expect(page.locator(f"[name=style][value='{name.replace('plain', '')}']")).not_to_be_checked()
    draw(page, drawn=3)
    page.get_by_label("photo", exact=True).first.check()
    assert page.input_value("#style-cartoon") == "0"
    page.locator("#gallery").get_by_role("button", name="Reuse").nth(1).click()
    expect(page.get_by_label("cartoon", exact=True).first).to_be_checked()
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(4, timeout=SLOW_MS)
    assert [body["style"] for body in sent] == [{}, {"cartoon": 1}, {"photo": 0.5, "cartoon": 1}, {"cartoon": 1}]
    sources = page.evaluate("() => [...document.querySelectorAll('#gallery img')].map((each) => each.src)")
    assert sources[0] == sources[2] and len(set(sources)) == 3


def test_words_that_are_unknown_are_named_with_the_picture(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pangu.models.known_words.SMALL_VOCABULARY", 512
    )  # the pair's is smaller than what words are judged by
    draw(page, "рыжая лиса")
    for place in ("#unread", "#gallery figcaption .unread"):
        expect(page.locator(place)).to_contain_text("рыжая · лиса")
    draw(page, "a red apple", drawn=2)
    expect(page.locator("#unread")).to_be_hidden()


def test_an_error_of_the_server_is_shown_and_the_page_goes_on(page: Page) -> None:
    page.evaluate("() => document.getElementById('size').append(new Option('1024x1024'))")
    page.select_option("#size", "1024x1024")
    page.fill("#prompt", "x")
    page.click("#draw")
    expect(page.get_by_role("alert")).to_contain_text("this model draws 96x96, not 1024x1024")
    page.select_option("#size", "96x96")
    draw(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_keyboard_alone_draws_and_stops(page: Page, server: LocalServer) -> None:
    page.locator("#prompt").focus()
    page.keyboard.type("a fox")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#gallery figure")).to_have_count(1, timeout=SLOW_MS)
    page.evaluate("() => { document.getElementById('steps').max = 200; }")
    page.locator("#steps").fill("200")
    page.locator("#prompt").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#state")).to_contain_text("Drawing")
    page.keyboard.press("Escape")
    expect(page.locator("#state")).to_contain_text("Stopped")
    expect(page.locator("#draw")).to_be_enabled()


def test_captions_that_it_knows_are_proposed_in_the_language_of_the_page(page: Page) -> None:
    page.get_by_role("button", name="red apple").click()
    assert page.input_value("#prompt") == "red apple"
    page.click("#language")
    page.get_by_role("button", name="红苹果").click()
    assert page.input_value("#prompt") == "红苹果"
    expect(page.locator("#proposed button")).to_have_count(1)


def test_every_word_is_there_in_both_languages_and_stays_chosen(page: Page) -> None:
    english = page.inner_text("body")
    page.click("#language")
    expect(page.locator("#draw")).to_have_text("开始绘制")
    assert page.get_attribute("html", "lang") == "zh"
    assert page.inner_text("body") != english
    page.reload()
    expect(page.locator("#draw")).to_have_text("开始绘制")
    missing = page.evaluate("() => Object.keys(WORDS.en).filter((name) => !WORDS.zh[name])")
    assert missing == []


def test_on_a_phone_nothing_runs_over_the_edge(browser: Browser, server: LocalServer) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, locale="zh-CN")
    page.set_default_timeout(SLOW_MS)
    page.goto(f"{server.url}/studio")
    expect(page.locator("#draw")).to_have_text("开始绘制")
    draw(page, "一个很长的提示" * 20, steps=2)
    expect(page.locator("#now img")).to_be_in_viewport()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.close()


def test_pictures_survive_a_reload_are_enlarged_compared_copied_and_deleted(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#beside-empty").get_by_role("button", name="red apple").click()  # one press draws
    expect(page.locator("#gallery figure")).to_have_count(1, timeout=SLOW_MS)
    expect(page.locator("#beside-prompt #proposed")).to_be_visible()
    draw(page, "a fox", drawn=2)
    expect(page.locator("#storage")).to_contain_text("stay in this browser")
    expect(page.locator("#gallery figure[data-kept=true]")).to_have_count(2)
    page.reload()
    expect(page.locator("#gallery figure")).to_have_count(2)
    figure = page.locator("#gallery figure").first
    figure.get_by_role("button", name="Copy").click()
    expect(figure.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert (
        copied.startswith("a fox: drawn by a pair without a release, 96x96, 6 steps, guidance ") and ", seed " in copied
    )
    figure.get_by_role("button").first.press("Enter")
    expect(page.get_by_role("dialog").locator("img")).to_have_count(1)
    page.keyboard.press("Escape")
    for summary in page.locator("#gallery summary").all():
        summary.click()
    page.get_by_role("button", name="Compare").first.click()
    page.get_by_role("button", name="Compare").last.click()
    shown = page.get_by_role("dialog").locator("figcaption")
    expect(shown.first).to_contain_text("a fox")
    expect(shown.last).to_contain_text("red apple")
    page.get_by_role("button", name="Close").click()
    page.locator("#gallery summary").first.click()
    page.get_by_role("button", name="Delete", exact=True).first.click()
    expect(page.locator("#gallery figure")).to_have_count(1)  # what is gone from the page is gone from the disk
    page.reload()
    expect(page.locator("#gallery figure")).to_have_count(1)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all").click()
    expect(page.locator("#gallery figure")).to_have_count(0)
    page.reload()
    expect(page.locator("#release")).to_contain_text("release 0", timeout=SLOW_MS)
    expect(page.locator("#gallery figure")).to_have_count(0)


def test_a_picture_is_drawn_anew_where_it_was_painted_and_stays_as_it_was_elsewhere(page: Page) -> None:
    draw(page)
    page.locator("#gallery summary").click()
    page.get_by_role("button", name="Start from it").click()
    canvas = page.locator("#source-view")
    expect(canvas).to_be_visible()  # before that it takes no focus
    canvas.focus()
    page.keyboard.press("Space")  # in the middle
    page.locator("#change").fill("1")
    draw(page, "a fox", drawn=2)
    expect(page.locator("#gallery figcaption").first).to_contain_text("from a picture, strength 1")
    difference = page.evaluate(
        """async () => {
          const [after, before] = await Promise.all([...document.querySelectorAll("#gallery img")].map(async (image) => {
            await image.decode();
            const canvas = Object.assign(document.createElement("canvas"), { width: 96, height: 96 });
            canvas.getContext("2d").drawImage(image, 0, 0, 96, 96);
            return canvas.getContext("2d").getImageData(0, 0, 96, 96).data;
          }));
          const by = (x, y, part) => Math.abs(after[4 * (96 * y + x) + part] - before[4 * (96 * y + x) + part]);
          const at = (x, y) => by(x, y, 0) + by(x, y, 1) + by(x, y, 2);
          let inside = 0, outside = 0;
          for (let y = 0; y < 96; y += 1) for (let x = 0; x < 96; x += 1) {
            if (Math.hypot(x - 48, y - 48) < 9) inside += at(x, y);
            else if (Math.hypot(x - 48, y - 48) > 15) outside += at(x, y);
          }
          return [inside, outside];
        }"""
    )
    assert difference[0] > 0 and difference[1] == 0
    # Dropped, too; what is no picture is refused at its field.
    page.get_by_role("button", name="Take it away").click()
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), "white").save(picture, "PNG")
    for name, data, seen in (("a.png", picture.getvalue(), True), ("b.png", b"no picture", False)):
        page.evaluate(
            """([name, bytes]) => {
              const moved = new DataTransfer();
              moved.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
              document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
            }""",
            [name, list(data)],
        )
        expect(page.locator("#error")).to_be_hidden() if seen else expect(page.locator("#error")).to_contain_text(
            "no picture"
        )
        expect(canvas).to_be_visible()


@pytest.mark.long
def test_a_partner_varies_a_picture_without_a_text_and_reuse_asks_for_it_again(page: Page) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), "orange").save(picture, "PNG")
    page.set_input_files("#source-file", {"name": "a.png", "mimeType": "image/png", "buffer": picture.getvalue()})
    page.get_by_label("What becomes of it").select_option(label="A variation by like")
    expect(page.locator("#refining")).to_be_hidden()
    draw(page, "")
    expect(page.locator("#gallery figcaption").first).to_contain_text("a variation")
    expect(page.locator("#gallery figcaption").first).to_contain_text("varied by like, strength 0.5")
    page.get_by_role("button", name="Take it away").click()
    page.click("#draw")  # without the picture a text is needed
    expect(page.locator("#prompt:invalid")).to_have_count(1)
    page.locator("#gallery").get_by_role("button", name="Reuse").click()
    expect(page.locator("#become")).to_have_value("like")
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(2, timeout=SLOW_MS)
    sources = page.evaluate("() => [...document.querySelectorAll('#gallery img')].map((each) => each.src)")
    assert sources[0] == sources[1]
    page.locator("#steps").fill("2")
    page.get_by_label("How much the partner says").fill("0.1")
    page.click("#language")
    expect(page.locator("#become option:checked")).to_have_text("由 like 画变体")
    page.click("#draw")
    expect(page.locator("#gallery figcaption").first).to_contain_text("由 like 变化，强度 0.1", timeout=SLOW_MS)


def test_what_is_asked_for_meanwhile_waits_its_turn_and_an_error_stands_at_its_field(page: Page) -> None:
    page.evaluate("() => { document.getElementById('steps').max = 200; }")
    page.locator("#steps").fill("200")
    page.fill("#prompt", "first")
    page.click("#draw")
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.locator("#steps").fill("2")
    for text in ("second", "third"):
        page.fill("#prompt", text)
        page.click("#draw")
    expect(page.locator("#queue li")).to_have_count(2)
    page.get_by_role("button", name="Take out").first.click()
    expect(page.locator("#gallery figcaption").first).to_contain_text("third", timeout=SLOW_MS)
    expect(page.locator("#gallery figure")).to_have_count(2)
    expect(page.locator("#queue")).to_be_hidden()
    page.evaluate("() => document.getElementById('size').append(new Option('1024x1024'))")
    page.select_option("#size", "1024x1024")
    page.click("#draw")
    expect(page.locator("#size")).to_have_attribute("aria-invalid", "true", timeout=SLOW_MS)
    expect(page.locator(".row:has(#size) + #error")).to_be_visible()


def test_every_control_has_a_name(page: Page) -> None:
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea, button')]"
        ".filter((each) => !(each.labels?.length || each.textContent.trim())).map((each) => each.id)"
    )
    assert nameless == []


def test_halves_and_long_texts_are_asked_for_and_what_would_be_cut_is_said_while_typing(page: Page) -> None:
    page.fill("#prompt", "a red apple " * 20)
    expect(page.locator("#typed")).to_contain_text("Too long", timeout=SLOW_MS)
    page.locator("summary[data-word=more]").click()
    page.get_by_text("Read long texts in windows").click()
    expect(page.locator("#typed")).to_be_hidden(timeout=SLOW_MS)
    page.fill("#texture-steps", "2")
    page.fill("#texture-guidance", "1")
    draw(page, "a red apple " * 20, steps=3)
    expect(page.locator("#unread")).to_be_hidden()
    expect(page.locator("#gallery figcaption").first).to_contain_text("96x96, 3+2 steps, ")
    page.get_by_role("button", name="Reuse").click()
    assert page.input_value("#texture-steps") == "2"


@pytest.mark.long
def test_each_expert_between_has_fields_that_are_asked_for_kept_and_marked(browser: Browser, tmp_path: Path) -> None:
    from tests.pipelines.transformers import written_experts
    from tests.serve.local import serving

    with serving(written_experts(tmp_path)) as server:
        page = browser.new_page(locale="zh-CN", viewport={"width": 390, "height": 800})
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(f"{server.url}/studio")
        page.get_by_text("更多").first.click(timeout=SLOW_MS)
        expect(page.get_by_label("middle 的步数")).to_be_visible(timeout=SLOW_MS)
        page.fill("#middle-steps", "2")
        page.fill("#middle-guidance", "5")
        draw(page, steps=4)
        caption = page.locator("#gallery figcaption").first
        expect(caption).to_contain_text("4+2+4 步，引导 3/5/3")
        page.fill("#middle-steps", "")
        page.locator("#gallery").get_by_text("重用").click()
        kept = [page.input_value(f"#{role}-steps") for role in ("middle", "texture")]
        assert [*kept, page.input_value("#middle-guidance")] == ["2", "4", "5"]
        page.evaluate("document.getElementById('form').noValidate = true")
        page.fill("#middle-steps", "500")
        page.click("#draw")
        expect(page.locator("#middle-steps")).to_have_attribute("aria-invalid", "true", timeout=SLOW_MS)
        assert not failures
        page.close()
