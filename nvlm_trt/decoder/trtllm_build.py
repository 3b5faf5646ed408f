"""Runs ``trtllm-build`` where it is installed: checks before, progress during the build, a log, checks after.

The engine folder appears under its name only when it is whole: the tool writes into a folder beside it. Its output goes
to a log file next to the folder, for people; errors are ours and name that file. The tool dies with this process, also
when that is killed, so that no half of a build goes on alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nvlm_trt.decoder.build_command import trtllm_build_command
from nvlm_trt.decoder.engine_check import check_engines
from nvlm_trt.decoder.trtllm_log import STAGES_PER_RANK, LogReader, failure
from nvlm_trt.decoder.trtllm_preflight import check_before_build, check_version, rank_sizes
from nvlm_trt.decoder.trtllm_tool import find_trtllm
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.machine import Gpu
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["BUILT_ON", "LOG_NAME", "run_trtllm_build"]

LOG_NAME = "trtllm-build.log"
BUILT_ON = "built_on.json"
_TIED_EXEC = Path(__file__).parents[1] / "tied_exec.py"
_STOP_S = 10


def run_trtllm_build(
    recipe: Recipe,
    config: NvlmConfig,
    checkpoint_dir: Path,
    engine_dir: Path,
    *,
    gpus: Sequence[Gpu],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Build the decoder's engines; blocks until the tool ends. ``progress`` counts stages: three for each rank.

    Raises ``MissingToolError`` E-TOOL-TRTLLM; ``BuildError`` E-BUILD-VERSION, E-BUILD-GPU, E-BUILD-SPACE before it
    starts, and these or E-BUILD-GPU-MEMORY, E-BUILD-MEMORY, E-BUILD-TRTLLM when it fails; ``ArtefactError``
    E-ENGINE-INCOMPLETE or E-ENGINE-CONFIG when what it left is not what was asked for.
    """
    tool = find_trtllm(recipe)
    engine_dir.parent.mkdir(parents=True, exist_ok=True)
    check_before_build(recipe, tool, gpus, checkpoint_dir, engine_dir.parent)
    partial = engine_dir.with_name(engine_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    command = [tool.path, *trtllm_build_command(recipe, config, checkpoint_dir.absolute(), partial.absolute())[1:]]
    try:
        reader, total = LogReader(), STAGES_PER_RANK * recipe.decoder.world_size
        with _started(command, partial) as process, (engine_dir.parent / LOG_NAME).open("wb") as log:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
                seen = reader.stages
                reader.line(line.decode("utf-8", "replace").rstrip())
                if reader.version is not None:
                    check_version(reader.version)
                if progress and reader.stages > seen:
                    progress(min(reader.stages, total), total)
            status = process.wait()
        if status:
            raise failure(status, reader.tail, LOG_NAME)
        check_engines(partial, recipe, config, rank_sizes(recipe, checkpoint_dir))
        built_on = {"gpu": gpus[0].name, "compute_capability": gpus[0].compute_capability}
        (partial / BUILT_ON).write_text(json.dumps(built_on, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _replace_folder(engine_dir, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Started in a session of its own, so that what it starts can be stopped with it.

    It runs in ``folder``, because the tool leaves its timing cache in the working directory.
    """
    tied = [sys.executable, str(_TIED_EXEC), str(os.getpid()), *command]
    process = subprocess.Popen(
        tied,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _stop(process)
        if process.stdout is not None:
            process.stdout.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
            return


def _replace_folder(folder: Path, by: Path) -> None:
    """Rename over a folder that is not empty, which the system refuses: the old one is moved aside first."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    by.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
