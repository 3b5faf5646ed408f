"""The scripts by which a group's leader learns where its ranks run, and its ranks get their environment."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
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


def test_ranks_on_other_nodes_have_their_pods_environment(tmp_path):
    """SSH gives a session none of its server's: neither OPAL_PREFIX, by which Open MPI finds itself, nor NCCL's."""
    sshd = tmp_path / "sshd"
    sshd.write_text(f"#!{sys.executable}\nimport json, sys; print(json.dumps(sys.argv[1:]))\n")
    sshd.chmod(0o755)
    script = (CHART / "files" / "sshd.sh").read_text(encoding="utf-8").replace("/usr/sbin/sshd", str(sshd))
    given = {"PATH": "/opt/a:/usr/bin:/bin", "NCCL_DEBUG": "INFO", "ODD": 'a "b" \\ $c', "LINES2": "a\nb", "NONE": ""}
    done = subprocess.run(
        ["bash", "-c", script, "/etc/mpi/sshd.sh"],
        env=given, capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    *_, config, option, setting = json.loads(done.stdout)
    assert (config, option) == ("/etc/mpi/sshd_config", "-o")
    words = dict(word.split("=", 1) for word in shlex.split(setting.removeprefix("SetEnv=")))
    assert {name: words.get(name) for name in given} == {**given, "LINES2": None}
    assert "LINES2" in done.stderr
