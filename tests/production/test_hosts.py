"""The script by which a group's leader learns where its ranks run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.production.helm import CHART

SCRIPT = CHART / "files" / "write-hosts.sh"


def environment(size: int) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "LWS_LEADER_ADDRESS": "web-nvlm-trt-3.web-nvlm-trt.models",
        "LWS_GROUP_SIZE": str(size),
        "GPUS": "4",
        "SSH_PORT": "2222",
    }


def test_the_leader_comes_first(tmp_path):
    hosts = tmp_path / "hosts"
    subprocess.run(["bash", SCRIPT, hosts], env=environment(1), check=True, timeout=10)
    assert hosts.read_text() == "web-nvlm-trt-3.web-nvlm-trt.models slots=4\n"


def test_workers_are_waited_for_by_the_names_that_the_set_gives_them(tmp_path):
    hosts = Path(tmp_path, "hosts")
    with subprocess.Popen(["bash", SCRIPT, hosts], env=environment(3), stdout=subprocess.PIPE, text=True) as waits:
        assert waits.stdout is not None
        assert waits.stdout.readline() == "waiting for web-nvlm-trt-3-1.web-nvlm-trt.models\n"
        waits.kill()
    assert not hosts.exists()


@pytest.mark.parametrize("missing", ["LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "GPUS", "SSH_PORT"])
def test_nothing_is_guessed(tmp_path, missing):
    known = {name: value for name, value in environment(2).items() if name != missing}
    done = subprocess.run(
        ["bash", SCRIPT, tmp_path / "hosts"], env=known, capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode != 0
    assert missing in done.stderr
