"""Commands that end with the program that started them, without a keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import nvlm_trt
from tests.deploy.processes import lives, wait_for

TIED_EXEC = str(Path(nvlm_trt.__file__).with_name("tied_exec.py"))


def test_a_tied_command_dies_with_its_parent(tmp_path):
    script = (
        "import os, subprocess, sys, time\n"
        f"tied = [sys.executable, {TIED_EXEC!r}, str(os.getpid())]\n"
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
        [sys.executable, TIED_EXEC, str(os.getppid()), "/bin/echo", "started"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b""
