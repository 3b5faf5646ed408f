"""The clock of the machine is set, by a day either way, while answers are being made: time is read elsewhere.

Debian's libfaketime sits between every process of the service and the clock of the kernel; scripts/bootstrap.sh
installs it. The clock that nobody can set is left alone, as it is when a real one is set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from tests.gateway.raw import GOOD, send
from tests.supervise.service import Service

# The library makes everything several times as slow.
LONG = AskOptions(max_tokens=100, min_tokens=100)
DAY_S = 86400
# So often the library looks at the file.
LOOK_S = 1


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """Holds what the service's clock is ahead by, in seconds."""
    file = tmp_path / "clock"
    file.write_text("+0")
    return file


@pytest.fixture
def service(deployment: Path, clock: Path) -> Iterator[Service]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": str(LOOK_S),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with Service(deployment, "--ask-every-s=0.2", environment=environment) as service:
        yield service


def day(service: Service) -> str:
    """By the service's own log: the clock has really been set."""
    return str(service.events[-1]["time"])[:10]


def test_a_clock_that_jumps_cuts_nothing_short_and_restarts_nothing(service, clock):
    today = day(service)
    with GrpcClient(service.urls["grpc"], timeout_s=20) as client:
        for jump in (DAY_S, -DAY_S):
            begun_s = time.monotonic()
            with client.stream("Tell a story.", (), LONG) as stream:
                next(stream)
                clock.write_text(f"{jump:+}")
                assert stream.finish().output_tokens == LONG.max_tokens
            while time.monotonic() < begun_s + 1.5 * LOOK_S:
                assert service.asks() == service.answer
            assert service.health().status == 200
            assert send(service.urls["gateway"], GOOD).status == 200
    assert service.restarts("triton") == service.restarts("gateway") == 0
    service.kill("nvlm_trt gateway")
    assert service.recovers("gateway", 0)
    assert day(service) < today
