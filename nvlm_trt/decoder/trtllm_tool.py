"""Finds ``trtllm-build`` and which TensorRT-LLM it belongs to, without loading it: loading takes half a minute."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.decoder.trtllm_format import TRTLLM_VERSION
from nvlm_trt.errors import MissingToolError
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["TrtllmTool", "find_trtllm"]

_ASK_VERSION = "import importlib.metadata as m; print(m.version('tensorrt_llm'))"
_TIMEOUT_S = 60
# What installers write where a path is too long, or has blanks, for the first line of a script.
_EXEC_LINE = re.compile(r"""^'''exec' "?([^"]+?)"? "\$0" "\$@"$""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TrtllmTool:
    """``version`` is None where the script does not say whose interpreter it runs in."""

    path: str
    version: str | None


def find_trtllm(recipe: Recipe) -> TrtllmTool:
    """Raises ``MissingToolError`` E-TOOL-TRTLLM where there is no ``trtllm-build``."""
    path = shutil.which("trtllm-build")
    if path is None:
        image = recipe.container.image if recipe.container else f"a container with TensorRT-LLM {TRTLLM_VERSION}"
        raise MissingToolError(
            "E-TOOL-TRTLLM",
            "trtllm-build is not installed on this machine.",
            f"Run this step inside {image}.",
        )
    return TrtllmTool(path, _version(Path(path)))


def _version(script: Path) -> str | None:
    interpreter = _interpreter(script)
    if interpreter is None:
        return None
    try:
        done = subprocess.run(
            [interpreter, "-c", _ASK_VERSION], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _interpreter(script: Path) -> str | None:
    """The Python of an entry point that an installer wrote, in either of its two forms."""
    try:
        text = script.read_bytes()[:4096].decode("utf-8", "replace")
    except OSError:
        return None
    first = text.partition("\n")[0].removeprefix("#!").strip()
    if "python" in first:
        return first.split()[0]
    found = _EXEC_LINE.search(text)
    return found[1] if found else None
