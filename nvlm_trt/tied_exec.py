"""Run a command that gets SIGTERM when the process that started it dies: ``python tied_exec.py PARENT COMMAND...``.

A program of its own because the request to the kernel must be made between fork and exec, where a process with threads
should run no Python.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(sys.argv[1]):  # else it died before the line above
        os.execv(sys.argv[2], sys.argv[2:])
