from __future__ import annotations

import os
import subprocess
import sys


def test_the_kernels_compute_what_the_plain_operations_do():
    """In a process of its own: Triton decides on import whether it interprets."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.embedded.pytorch.interpreted_kernels"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (told.returncode, told.stdout) == (0, "equal\n"), told.stderr
