"""The page at ``/`` in a real browser, before a real gateway and a real Triton with the model that reads."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.pipeline.builder import build
from nvlm_trt.resources import resource_folder
from tests.gateway.raw import send
from tests.triton.test_cancel import running, wait_until

KEY = "a-key-of-some-length"
SIGN = resource_folder("calibration") / "sign.png"
MARKUP = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("reading")
    build(resource_folder("calibration") / "mini", "embedded", folder)
    with TritonServer(folder, resource_folder("calibration") / "mini") as server:
        yield server


@pytest.fixture(scope="module")
def door(reading: TritonServer) -> Iterator[GatewayServer]:
    with GatewayServer(GatewaySettings(port=0), reading.grpc_url) as gateway:
        yield gateway


def drop(page: Page, data: bytes, name: str) -> None:
    """Onto the page, as from a file manager."""
    transfer = page.evaluate_handle(
        """([text, name]) => {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            return transfer;
        }""",
        [base64.b64encode(data).decode(), name],
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("body", kind, {"dataTransfer": transfer})


def ask(page: Page, question: str) -> None:
    page.get_by_role("textbox", name="Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def test_a_dropped_picture_is_shown_in_tiles_and_read(page: Page, door: GatewayServer):
    page.goto(door.url)
    expect(page.get_by_text("nvlm-d, up to 1,024 tokens")).to_be_visible()
    drop(page, SIGN.read_bytes(), "sign.png")
    tiles = page.get_by_role("list", name="Tiles of the picture").get_by_role("listitem")
    expect(tiles).to_have_text([f"tile_{number}" for number in range(1, 7)])
    expect(page.get_by_text("336 × 224 pixels, cut into 3 × 2 tiles and a thumbnail of the whole")).to_be_visible()
    expect(page.get_by_text("112 picture")).to_be_visible()
    lefts, tops = (tiles.evaluate_all(f"all => all.map((one) => one.offset{side})") for side in ("Left", "Top"))
    assert lefts[:3] == lefts[3:] == sorted(set(lefts))
    assert tops == [tops[0]] * 3 + [tops[3]] * 3
    assert tops[0] < tops[3]
    ask(page, "What does the sign say?")
    expect(page.get_by_role("region", name="Answer")).to_have_text("4257")
    expect(page.get_by_text("It ended by itself.")).to_be_visible()
    for figure in ("First token", "Total"):
        assert page.locator(f"dt:text-is('{figure}') + dd").inner_text().endswith(("ms", "s"))
    # What was foretold is what was read.
    told = page.locator("#prompt-tokens").inner_text()
    assert page.locator("dt:text-is('Tokens in, out') + dd").inner_text() == f"{told}, 4"


def test_detail_and_the_picture_change_the_cost(page: Page, door: GatewayServer):
    page.goto(door.url)
    page.get_by_label("choose a file").set_input_files(SIGN)
    expect(page.locator("#picture-tokens")).to_have_text("112")
    page.get_by_label("One tile").check()
    expect(page.locator("#picture-tokens")).to_have_text("16")
    expect(page.locator("#tiles li")).to_have_text(["1"])
    expect(page.locator("#thumbnail")).to_be_hidden()
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#cost")).to_be_hidden()
    expect(page.get_by_text("Drop a picture here")).to_be_visible()


def test_tiles_lie_as_the_model_sees_them_not_as_a_camera_was_held(page: Page, door: GatewayServer):
    """Its EXIF says that it is to be turned; the model does not read that."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture = Image.new("RGB", (448, 112), (200, 0, 0))
    picture.paste((0, 0, 200), (224, 0, 448, 112))
    picture.save(buffer, "JPEG", exif=exif)
    page.goto(door.url)
    page.get_by_label("choose a file").set_input_files(
        {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    )
    expect(page.get_by_text("448 × 112 pixels, cut into 4 × 1 tiles")).to_be_visible()
    shown = np.array(Image.open(io.BytesIO(page.locator("#mosaic .cut").screenshot())).convert("RGB"))
    height, width, _ = shown.shape
    assert width == pytest.approx(4 * height, rel=0.02)
    red, blue = (shown[height * 3 // 4, width * eighth // 8] for eighth in (1, 7))
    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]


def test_stop_ends_the_answer_in_the_decoder(page: Page, door: GatewayServer, reading: TritonServer):
    page.goto(door.url)
    # Left to itself this model ends after two tokens; so it is made to go on, eight times over.
    page.route("**/v1/chat/completions", lambda route: route.continue_(post_data=endless(route.request.post_data_json)))
    # As soon as there is anything to stop: all of it takes a second.
    page.evaluate(
        """() => new MutationObserver(() => document.getElementById("stop").click())
            .observe(document.getElementById("answer"), { childList: true })"""
    )
    ask(page, "Count.")
    expect(page.get_by_text("You stopped it.")).to_be_visible()
    assert wait_until(lambda: running(reading) == 0)
    assert wait_until(lambda: b'requests_total{status="499"} 1.0' in send(door.url, path="/metrics").body)
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()


def endless(body):
    return body | {"min_tokens": 900, "max_tokens": 900, "n": 8, "temperature": 1, "logprobs": True}


def test_what_the_api_refuses_is_told_in_its_words(page: Page, faults: list[str], door: GatewayServer):
    page.goto(door.url)
    page.get_by_label("choose a file").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    )
    expect(page.get_by_role("alert").first).to_contain_text("E-IMAGE-")
    ask(page, "What?")
    expect(page.locator("#answer-error")).to_contain_text("E-IMAGE-")
    # The browser's console names each: two looks at the cost, and the question.
    while len(faults) < 3:
        page.wait_for_timeout(10)
    assert all("status of 400" in fault for fault in faults)
    faults.clear()


def test_names_and_answers_are_text(page: Page, door: GatewayServer):
    page.goto(door.url)
    page.get_by_label("choose a file").set_input_files(
        {"name": MARKUP, "mimeType": "image/png", "buffer": SIGN.read_bytes()}
    )
    expect(page.locator("#file-name")).to_have_text(MARKUP)
    expect(page.locator("#tiles li")).to_have_count(6)

    def answer(route):
        chunk = '{"choices": [{"index": 0, "delta": {"content": "<img src=/x onerror=alert(1)><script>1</script>"}}]}'
        route.fulfill(status=200, content_type="text/event-stream", body=f"data: {chunk}\n\ndata: [DONE]\n\n")

    page.route("**/v1/chat/completions", answer)
    ask(page, MARKUP)
    expect(page.get_by_role("region", name="Answer")).to_have_text("<img src=/x onerror=alert(1)><script>1</script>")
    assert page.locator("#answer *, #file-name *").count() == 0


def test_a_picture_that_is_a_program_does_nothing(page: Page, faults: list[str], door: GatewayServer):
    """A browser shows an SVG as a picture, and no script of it runs; the API refuses it."""
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script><image href='http://127.0.0.1:1/x'/></svg>"
    page.goto(door.url)
    page.get_by_label("choose a file").set_input_files({"name": "a.svg", "mimeType": "image/svg+xml", "buffer": svg})
    expect(page.locator("#picture-error")).to_contain_text("E-IMAGE-")
    assert all("status of 400" in fault for fault in faults)
    faults.clear()


def test_a_key_is_asked_for_and_kept_nowhere(page: Page, reading: TritonServer):
    with GatewayServer(GatewaySettings(port=0, api_keys=(KEY,)), reading.grpc_url) as locked:
        page.goto(locked.url)
        ask(page, "Hello?")
        expect(page.locator("#answer-error")).to_have_text("This server wants an API key.")
        page.get_by_label("API key").fill(KEY)
        ask(page, "Hello?")
        expect(page.get_by_text("It ended by itself.")).to_be_visible()
        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        assert KEY not in page.evaluate(kept)
        page.reload()
        expect(page.get_by_label("API key")).to_have_value("")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_and_every_field_has_a_name(page: Page, door: GatewayServer, width: int, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(door.url)
    page.get_by_label("choose a file").set_input_files(SIGN)
    expect(page.locator("#tiles li")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#question").focus()
    names = []
    for _ in range(7):
        names.append(page.evaluate("document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText"))
        page.keyboard.press("Tab")
    assert names[:4] == ["Question", "All tiles it needs", "Longest answer, tokens", "Ask"]
    assert contrast(page, "#legend") >= 4.5
    assert contrast(page, "#send") >= 4.5


def contrast(page: Page, selector: str) -> float:
    """Of an element's text before its background, as WCAG 2.2 has it."""
    colours = page.locator(selector).evaluate(
        """element => {
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
                .map((colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number));
        }"""
    )
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_nothing_else_may_be_done_in_it(door: GatewayServer):
    told = send(door.url, path="/")
    policy = told.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"<script>" not in told.body
    assert b"style=" not in told.body
    assert send(door.url, path="/page/page.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert send(door.url, path="/page/../settings.py").status == 404


def test_it_can_be_left_out(reading: TritonServer):
    with GatewayServer(GatewaySettings(port=0, page=False), reading.grpc_url) as gateway:
        assert send(gateway.url, path="/").status == 404
        assert send(gateway.url, path="/page/page.js").status == 404
