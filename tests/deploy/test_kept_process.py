"""Whatever dies, and however: nothing of a kept program outlives the one that wanted it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nvlm_trt.deploy.kept_process import KeptProcess
from tests.deploy.processes import children, lives, wait_for

# A command with a child in a session of its own, which no group's signal reaches.
COMMAND = ["/bin/bash", "-c", "setsid sleep 60 & echo $! >$0; wait", "PID_FILE"]


@pytest.fixture
def left(tmp_path: Path) -> list[str]:
    (tmp_path / "run_1").touch()
    (tmp_path / "run_2").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    return [str(tmp_path / "run_*"), str(tmp_path / "folder")]


def command(tmp_path: Path) -> list[str]:
    return [*COMMAND[:-1], str(tmp_path / "escaped")]


def escaped(tmp_path: Path) -> int:
    file = tmp_path / "escaped"
    assert wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def remains(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name in ("run_1", "run_2", "folder"))


def test_a_killed_command_takes_its_children_and_its_files_along(tmp_path, left):
    process = KeptProcess(command(tmp_path), left=left)
    child = escaped(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    assert not lives(child)
    assert remains(tmp_path) == ["folder"]
    process.kill()


@pytest.mark.parametrize("status", [0, 3])
def test_its_end_is_told_as_it_was(status):
    process = KeptProcess(["/bin/bash", "-c", f"exit {status}"])
    assert process.wait(20) == status
    process.kill()


def test_a_command_that_is_not_there_has_ended(tmp_path):
    process = KeptProcess([str(tmp_path / "nothing")])
    assert process.wait(20) == 127
    process.kill()


def test_it_is_asked_to_end_and_then_made_to(tmp_path, left):
    process = KeptProcess(["/bin/bash", "-c", "trap 'exit 7' TERM; touch $0; sleep 60 & wait", str(tmp_path / "up")])
    assert wait_for((tmp_path / "up").exists)
    process.terminate()
    assert process.wait(20) == 7
    process.terminate()
    process.kill()
    stubborn = KeptProcess(["/bin/bash", "-c", "trap '' TERM; touch $0; sleep 60", str(tmp_path / "stubborn")])
    assert wait_for((tmp_path / "stubborn").exists)
    stubborn.terminate()
    assert stubborn.wait(0.1) is None
    stubborn.kill()
    assert not lives(stubborn.pid)


def test_a_program_that_is_killed_leaves_nothing(tmp_path, left):
    script = (
        "import json, sys, time\n"
        "from nvlm_trt.deploy.kept_process import KeptProcess\n"
        "command, left = json.loads(sys.argv[1])\n"
        "print(KeptProcess(command, left=left).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    import json

    arguments = [sys.executable, "-c", script, json.dumps([command(tmp_path), left])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as program:
        assert program.stdout is not None
        pid, child = int(program.stdout.readline()), escaped(tmp_path)
        keeper = next(iter(children(program.pid)))
        program.kill()
    assert wait_for(lambda: not lives(keeper))
    assert not lives(pid)
    assert not lives(child)
    assert remains(tmp_path) == []


def test_a_killed_keeper_takes_the_command_along(tmp_path):
    process = KeptProcess(["/bin/sleep", "60"])
    keeper = next(pid for pid, line in children(os.getpid()).items() if "keeper.py" in line and "/bin/sleep" in line)
    os.kill(keeper, signal.SIGKILL)
    assert process.wait(20) is not None
    assert wait_for(lambda: not lives(process.pid))
    process.kill()


def test_signals_to_the_group_do_not_end_it_before_its_time():
    """Ctrl-C and a service manager's stop reach every process at once; the program decides when each ends."""
    process = KeptProcess(["/bin/sleep", "60"])
    keeper = next(pid for pid, line in children(os.getpid()).items() if "keeper.py" in line and "/bin/sleep" in line)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keeper, number)
    time.sleep(0.05)
    assert process.exit_status is None
    process.kill()
