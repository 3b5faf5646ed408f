"""Each in a process of its own: Triton decides on import whether it interprets."""

from __future__ import annotations

import os
import subprocess
import sys


def run(module, **environment):
    told = subprocess.run(
        [sys.executable, "-m", f"tests.embedded.pytorch.{module}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_kernels_compute_what_the_plain_operations_do():
    assert run("interpreted_kernels", TRITON_INTERPRET="1", OMP_NUM_THREADS="1") == "equal\n"


def test_the_kernels_compile_for_hopper(tmp_path):
    """And attention over a prompt comes out as the tensor cores' own instructions."""
    lines = run("compiled_kernels", TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    told = {name: (machine_code, wgmma) for name, machine_code, wgmma in map(str.split, lines)}
    assert list(told) == ["add_norm", "rotate", "prompt", "answer", "join", "gated"]
    assert {machine_code for machine_code, _ in told.values()} == {"True"}
    assert told["prompt"][1] == "True"
