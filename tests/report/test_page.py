"""The page in a real browser: readable at every width, nothing loaded, nothing run, whatever names hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvlm_trt.report.findings import find_results
from nvlm_trt.report.page import render_page
from tests.report.samples import CLIENTS, PRECISIONS, TILES, measurement, put, study, write_results

HOSTILE = (
    """</style></title><script>document.title='run'</script><img src=x onerror="document.title='run'">'"`${x}&lt;"""
)
SMALL = "[...document.querySelectorAll('text')].map(t => t.getBoundingClientRect().height).filter(h => h && h < 9)"
OUTSIDE = """[...document.querySelectorAll('.plot .mark')].filter(mark => {
    const a = mark.getBoundingClientRect(), b = mark.closest('svg').getBoundingClientRect();
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1 })"""
FOREIGN = "document.querySelectorAll('script, img, iframe, object, embed, link, base, form')"
HANDLERS = "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => /^on/i.test(a.name)))"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"))
    put(folder / "broken.json", "{")
    return put(folder / "page.html", render_page(find_results(folder), "e2e_ms_p50"))


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_whole(page, faults, file, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground, text = page.evaluate("[b = getComputedStyle(document.body)].map(b => [b.backgroundColor, b.color])[0]")
    assert (sum(numbers(ground)) < sum(numbers(text))) == (scheme == "dark")
    assert page.evaluate(f"{SMALL}.length") == 0, "words in plots too small to read"
    assert page.evaluate(f"{OUTSIDE}.length") == 0


def numbers(colour: str) -> list[int]:
    return [int(number) for number in colour.strip("rgb()").split(",")]


def test_every_point_is_in_a_plot_and_in_the_table_and_leads_there(page, faults, file):
    page.goto(file.as_uri())
    count = len(PRECISIONS) * len(TILES) * len(CLIENTS)
    spots = page.locator("#task-0 .spot")
    assert spots.count() == count
    titles = spots.locator("> title").all_text_contents()
    assert len(set(titles)) == count
    rows = page.locator("#task-0 tbody tr")
    assert rows.count() == count
    assert page.locator("#task-0 tbody tr.best").count() == page.locator("#task-0 .mark.best").count() == 12
    name = titles[0].partition(":")[0]
    spots.first.locator("a").click()
    assert name in page.locator("tr:target").inner_text()
    assert faults == []


def test_every_plot_says_what_it_shows_and_every_link_leads_somewhere(page, file):
    page.goto(file.as_uri())
    plots = page.locator("svg.plot")
    assert plots.count() == len(CLIENTS) + 2 + 3 * len(TILES)
    assert all(plots.nth(number).get_attribute("aria-label") for number in range(plots.count()))
    gone = page.evaluate(
        "[...document.querySelectorAll('a')].map(a => a.getAttribute('href')).filter(h => !document.querySelector(h))"
    )
    assert gone == []
    assert page.locator("h1").count() == 1


def test_what_was_not_read_is_told_at_the_top_and_listed(page, file):
    page.goto(file.as_uri())
    assert "1 file was not read" in page.locator("header").inner_text()
    assert "it is not JSON" in page.locator("#files").inner_text()


def test_nothing_in_a_result_becomes_markup_or_runs(page, faults, tmp_path):
    odd = study(6, {"bf16": 50, "fp8": 49}, task=HOSTILE, errors={HOSTILE: 1})
    model = odd.model.model_copy(update={"name": HOSTILE, "dtype": HOSTILE})
    put(tmp_path / "precisions.json", odd.model_copy(update={"model": model}).dump())
    data = json.loads(measurement("fp8", 6, {1: 9}, recipe=HOSTILE, decoder_exclude=[]).dump())
    data["circumstances"] |= dict.fromkeys(("cpu", "system", "command", "server", "date"), HOSTILE)
    data["experiment"]["door"] = HOSTILE
    data["points"].append(json.loads(json.dumps(data["points"][0])))
    data["points"][1]["summary"] = {}
    data["points"][1]["runs"][0]["problems"] = [HOSTILE]
    put(tmp_path / "latency.json", json.dumps(data))
    put(tmp_path / "<img src=x onerror=alert(1)>.json", "{")
    text = render_page(find_results(tmp_path), "e2e_ms_p50")
    page.goto(put(tmp_path / "page.html", text).as_uri())
    assert faults == []
    assert page.title().startswith("Accuracy and latency")
    assert page.evaluate(f"{FOREIGN}.length") == page.evaluate(f"{HANDLERS}.length") == 0
    assert page.locator("body").inner_text().count("onerror") >= 8


def test_its_policy_forbids_all_but_its_own_style(page, faults, file):
    """Even a script that somebody put in later would not run."""
    changed = file.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title='run'</script>")
    page.goto(put(file.with_name("changed.html"), changed).as_uri())
    assert page.title() != "run"
    assert any("Content Security Policy" in fault for fault in faults)
    faults.clear()


def test_the_same_results_give_the_same_bytes(file):
    assert render_page(find_results(file.parent), "e2e_ms_p50") == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["latency", "precisions"])
def test_one_kind_alone_is_shown_and_said_to_be_alone(tmp_path, kind):
    results = {
        "latency": measurement("fp8", 6, {1: 9}).dump(),
        "precisions": study(2, {"bf16": 50, "fp8": 49}, layers=None).dump(),
    }
    put(tmp_path / "x.json", results[kind])
    text = render_page(find_results(tmp_path), "e2e_ms_p50")
    assert "nothing to plot" in text
    assert ("There is no score" in text) == (kind == "latency")
    assert ("There is no latency measurement" in text) == (kind == "precisions")
