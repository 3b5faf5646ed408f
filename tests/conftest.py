from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.pipeline.builder import build
from nvlm_trt.resources import resource_folder
from tests.browser import Chromium, chromium, watch

_PAGE_MS = 20_000.0

# A shell starts what it runs in the background with SIGINT ignored, and programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small NVLM-D checkpoint, seed 0, in a path beyond ASCII; to be read, not changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "small, schön"
    write_checkpoint(folder, SIZES["small"])
    return folder


@pytest.fixture(scope="session")
def deployment(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint's, in a path with blanks and beyond ASCII; to be read, not changed."""
    folder = tmp_path_factory.mktemp("a deployment") / "mit Lücken"
    build(small_checkpoint, "embedded", folder)
    return folder


@pytest.fixture(scope="session")
def server(deployment: Path, small_checkpoint: Path) -> Iterator[TritonServer]:
    """One real server for all tests that leave it as it was; those that may not start their own."""
    with TritonServer(deployment, small_checkpoint) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(server: TritonServer) -> Iterator[GatewayServer]:
    """The OpenAI-compatible door before ``server``, with its default limits."""
    with GatewayServer(GatewaySettings(port=0), server.grpc_url) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    return [file.read_bytes() for file in sorted((resource_folder("calibration") / "pictures").glob("*.jpg"))]


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """One headless Chromium for all tests of a worker."""
    with chromium() as running:
        yield running


@pytest.fixture
def profile(browser: Chromium) -> Iterator[BrowserContext]:
    with browser.profile() as context:
        yield context


@pytest.fixture
def faults(profile: BrowserContext) -> list[str]:
    """What went wrong in the browser so far. A test that provokes something checks it here, and clears the list."""
    return watch(profile)


@pytest.fixture
def page(profile: BrowserContext, faults: list[str]) -> Iterator[Page]:
    """An empty page of its own profile. The test fails on whatever is left in ``faults``: an error in the console or of
    a script, a request to any place but the first page's own (for a file: that file)."""
    page = profile.new_page()
    page.set_default_timeout(_PAGE_MS)
    yield page
    assert not faults
