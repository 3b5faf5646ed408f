from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nvlm_trt.deploy import process
from nvlm_trt.deploy.process import Address
from nvlm_trt.errors import ServerError


def wait_for(condition, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_free_ports_differ_and_fixed_ones_are_kept():
    address = Address.choose("127.0.0.1")
    assert len({address.http_port, address.grpc_port, address.metrics_port}) == 3
    kept = Address.choose("127.0.0.1", grpc_port=address.grpc_port)
    assert kept.grpc_url == f"grpc://127.0.0.1:{address.grpc_port}"


@pytest.mark.parametrize(
    ("name", "argument"), [("HTTP", "http_port"), ("gRPC", "grpc_port"), ("metrics", "metrics_port")]
)
def test_a_port_in_use_is_named(name, argument):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"E-SERVER-PORT: The {name} port {port}"):
            Address.choose("127.0.0.1", **{argument: port})


def test_a_tied_command_dies_with_its_parent(tmp_path):
    script = (
        "import os, subprocess, sys, time\n"
        f"tied = [sys.executable, {str(process._TIED_EXEC)!r}, str(os.getpid())]\n"
        "child = subprocess.Popen([*tied, '/bin/sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert wait_for(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_for(lambda: not lives(child))


def test_a_command_tied_to_another_than_its_parent_does_not_start():
    done = subprocess.run(
        [sys.executable, str(process._TIED_EXEC), str(os.getppid()), "/bin/echo", "started"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b""
