"""What may be imported from where, and what importing costs."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import nvlm_trt

ROOT = Path(__file__).parents[1]

# The only modules that may need more than the package's own dependencies when they are imported.
NEEDS_TORCH = ("nvlm_trt.reference.", "nvlm_trt.embedded.pytorch.", "nvlm_trt.mini.")
NEEDS_TRITON = ("nvlm_trt.serving.triton",)
# Environment variables that keep ONNX Runtime and TensorRT-LLM from reporting what is done with them.
SWITCHES = ("ORT_DISABLE_TELEMETRY", "TRTLLM_NO_USAGE_STATS")
# Run, never imported.
PROGRAMS = ("nvlm_trt.__main__", "nvlm_trt.keeper", "nvlm_trt.tied_exec")

PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        print(name, "has no __all__")
    elif len(names) != len(set(names)):
        print(name, "offers something twice")
    else:
        for one in names:
            if not hasattr(module, one):
                print(name, "lacks", one)
for heavy in ("torch", "tensorrt", "tensorrt_rtx", "tensorrt_llm", "transformers", "modelopt"):
    if heavy in sys.modules:
        print(heavy, "was loaded")
"""


def modules() -> list[str]:
    found = pkgutil.walk_packages(nvlm_trt.__path__, "nvlm_trt.")
    names = [module.name for module in found if not module.ispkg and module.name not in PROGRAMS]
    return [name for name in names if not name.startswith(NEEDS_TORCH + NEEDS_TRITON)]


def test_the_package_itself_offers_its_version() -> None:
    assert nvlm_trt.__all__ == ["__version__"]


def test_every_module_says_what_it_offers_and_none_loads_torch_or_tensorrt_or_writes_a_file(tmp_path: Path) -> None:
    names = modules()
    assert len(names) > 50
    # ONNX Runtime reports nothing where CI is set, and so would not be caught there.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", *SWITCHES)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_says_about_usage_reports_stays() -> None:
    program = f"import os, nvlm_trt; print(*(os.environ[name] for name in {SWITCHES}))"
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    for given, found in ({}, "1 1"), (dict.fromkeys(SWITCHES, "0"), "0 0"):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == found.split()
