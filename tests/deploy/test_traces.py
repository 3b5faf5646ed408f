from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nvlm_trt.deploy.traces import SHARED_MEMORY, Traces, sweep

ROOT = Path(__file__).parents[2]


def test_a_run_removes_what_it_left_and_nothing_else():
    mine, other = Traces(), Traces()
    try:
        for run in (mine, other):
            (SHARED_MEMORY / f"{run.prefix}region").touch()
        mine.remove()
        mine.remove()
        assert not mine.folder.exists()
        assert not list(SHARED_MEMORY.glob(f"{mine.prefix[:-1]}*"))
        assert (SHARED_MEMORY / f"{other.prefix}region").exists()
        assert other.folder.exists()
    finally:
        other.remove()


def test_a_dead_run_is_cleaned_up_after_and_a_living_one_is_not():
    script = (
        "from nvlm_trt.deploy.traces import SHARED_MEMORY, Traces\n"
        "import os\n"
        "run = Traces()\n"
        "(SHARED_MEMORY / f'{run.prefix}region').touch()\n"
        "print(run.prefix, run.folder, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    living = Traces()
    try:
        (SHARED_MEMORY / f"{living.prefix}region").touch()
        told = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        prefix, folder = told.stdout.split()
        assert (SHARED_MEMORY / f"{prefix}region").exists()
        assert Path(folder).exists()
        sweep()
        assert not list(SHARED_MEMORY.glob(f"{prefix[:-1]}*"))
        assert not Path(folder).exists()
        assert (SHARED_MEMORY / f"{living.prefix}region").exists()
        assert living.folder.exists()
    finally:
        living.remove()


def test_a_lock_that_names_another_folder_does_not_remove_it(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    lock = SHARED_MEMORY / f"nvlm_{os.urandom(6).hex()}.lock"
    lock.write_text(str(precious))
    sweep()
    assert precious.exists()
    assert not lock.exists()
