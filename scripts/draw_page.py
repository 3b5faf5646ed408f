"""Draw docs/page.png: the gateway's page with a picture and its answer, by the model that ships, in a real Chromium.

    python scripts/draw_page.py [--picture FILE] [--question TEXT] [--width PIXELS] [--dark] [-o FILE]

Only the times in the picture differ from one run to the next.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.pipeline.builder import build
from nvlm_trt.resources import resource_folder

MODEL = resource_folder("calibration") / "mini"


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), default=resource_folder("calibration") / "sign.png")
@click.option("--question", default="What does the sign say?", show_default=True)
@click.option("--width", default=1180, show_default=True)
@click.option("--dark", is_flag=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("docs/page.png"), show_default=True)
def main(picture: Path, question: str, width: int, dark: bool, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(MODEL, "embedded", Path(folder))
        with (
            TritonServer(Path(folder), MODEL) as server,
            GatewayServer(GatewaySettings(port=0), server.grpc_url) as gateway,
        ):
            draw(gateway.url, picture, question, width, dark, out)
    click.echo(f"wrote {out}")


def draw(url: str, picture: Path, question: str, width: int, dark: bool, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": width, "height": 640}, color_scheme="dark" if dark else "light")
        page.goto(url)
        page.locator("#file").set_input_files(picture)
        page.locator("#tiles li").first.wait_for()
        page.locator("#question").fill(question)
        page.get_by_role("button", name="Ask").click()
        page.locator("#ended:not(:empty)").wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=out, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
