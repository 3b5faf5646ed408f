"""The Dockerfile: linted, made of files that exist, pinned, and run by commands that this package has."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nvlm_trt import __version__
from nvlm_trt.decoder.trtllm_format import TRTLLM_VERSION
from nvlm_trt.pipeline.recipe_file import read_draft
from tests.production.command_line import accepted, option
from tests.production.helm import BUILD, PRODUCTION

ROOT = BUILD.parent
DOCKERFILE = BUILD / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")

IMAGES_OWN = {
    # Required by TensorRT-LLM 1.2.1, or by what it requires, and so in its image.
    "aiohappyeyeballs", "aiohttp", "aiosignal", "annotated-types", "anyio", "attrs", "certifi", "click", "filelock",
    "frozenlist", "fsspec", "h11", "hf-xet", "httpcore", "httpx", "huggingface-hub", "idna", "ml-dtypes", "multidict",
    "numpy", "onnx", "packaging", "pillow", "prometheus-client", "propcache", "protobuf", "pydantic", "pydantic-core",
    "pyyaml", "safetensors", "starlette", "tokenizers", "tqdm", "typing-extensions", "typing-inspection", "urllib3",
    "uvicorn", "yarl",
}  # fmt: skip

IN_THE_IMAGE = {
    "25.12": ("1.1.0", "10.13.3.9"), "26.01": ("1.1.0", "10.13.3.9"), "26.02": ("1.1.0", "10.13.3.9"),
    "26.03": ("1.2.0", "10.14.1.48"), "26.04": ("1.2.1", "10.14.1.48"), "26.05": ("1.2.1", "10.14.1.48"),
    "26.06": ("1.2.1", "10.14.1.48"), "26.07": ("1.2.1", "10.14.1.48"),
}  # fmt: skip
"""TensorRT-LLM and TensorRT of Triton's releases, from its compatibility matrix of August 2026."""


def instructions(name: str) -> list[str]:
    """What follows the instruction, with continued lines joined and comments gone."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", lines, re.MULTILINE)


def copied() -> list[str]:
    sources = [words.split()[:-1] for words in instructions("COPY") if not words.startswith("--from")]
    return [source for line in sources for source in line]


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_the_linter_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", DOCKERFILE],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_exists_and_goes_to_the_builder():
    lines = (BUILD / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line.removeprefix("!/") for line in lines if line.startswith("!")}
    assert set(copied()) == let_through
    assert all((ROOT / source).exists() for source in copied())
    assert "*" in lines


def test_a_wheel_can_be_built_from_what_is_copied():
    """By what the build reads: the sources that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = [*wheel["packages"], *wheel["force-include"], project["project"]["readme"]]
    wanted += project["project"]["license-files"]
    assert set(wanted) <= set(copied())


def test_the_image_is_the_recipes():
    (base,) = re.findall(r"^ARG BASE=(\S+)$", TEXT, re.MULTILINE)
    containers = [read_draft(name).container for name in PRODUCTION]
    assert {container.image if container else "" for container in containers} == {base}
    assert all(stage.split()[0] in ("${BASE}", "common") for stage in instructions("FROM"))
    assert re.findall(r"-t nvlm-trt:(\S+)", TEXT) == [__version__, f"{__version__}-multi-node"]


def test_it_holds_the_tensorrt_llm_that_the_checkpoint_is_for():
    """A tag names the month of Triton alone."""
    (tag,) = re.findall(r"^ARG BASE=\S+:(\S+)-trtllm-python-py3$", TEXT, re.MULTILINE)
    assert IN_THE_IMAGE[tag] == (TRTLLM_VERSION, "10.14.1.48")
    assert "check_version(version('tensorrt_llm'))" in instructions("RUN")[-2]


def test_its_environment_sees_what_lies_in_the_image_s(tmp_path):
    """NVIDIA's python3 is one of an environment; a new one made by it would see Python's own packages alone."""
    image, mine = tmp_path / "image", tmp_path / "mine"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", image], check=True, timeout=60)
    (site,) = image.glob("lib/python3*/site-packages")
    (site / "tensorrt_llm.py").touch()
    (site / "redirect.pth").write_text("import sys; sys.redirected = True\n")
    (site / "pip.py").write_text("import sys, tensorrt_llm; print(sys.redirected, sys.prefix, *sys.argv[1:])\n")
    (command,) = (run for run in instructions("RUN") if "-m venv" in run)
    done = subprocess.run(
        ["sh", "-ec", command.replace("/opt/nvlm-trt", str(mine))],
        capture_output=True, text=True, check=True, timeout=60, env={"PATH": f"{image}/bin:/usr/bin:/bin"},
    )  # fmt: skip
    words = done.stdout.split()
    assert words[:3] == ["True", str(mine), "install"]
    assert words[-1] == f"{mine}/requirements.txt"


def test_every_package_is_pinned_as_it_was_tested_or_the_images_own():
    mine, tested = pins(BUILD / "requirements.txt"), pins(ROOT / "constraints.txt")
    assert mine.items() <= tested.items()
    assert set(mine) | IMAGES_OWN == needed() - {"nvlm-trt"}
    assert not set(mine) & IMAGES_OWN


def needed() -> set[str]:
    """Every package that the installed nvlm-trt[gateway,fast] needs, directly or not."""
    found: dict[str, set[str]] = {}
    todo = [("nvlm-trt", {"gateway", "fast"})]
    while todo:
        name, extras = todo.pop()
        known = found.setdefault(canonicalize_name(name), set())
        if known and extras <= known:
            continue
        known |= extras | {""}
        for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in known):
                todo.append((requirement.name, set(requirement.extras)))
    return set(found)


def test_it_runs_as_nobody_in_particular_and_listens_where_it_says():
    stages = [part.splitlines() for part in re.split(r"^FROM ", TEXT, flags=re.MULTILINE)[1:]]
    for lines in stages:
        users = [line.split()[1] for line in lines if line.startswith("USER ")]
        assert not users or users[-1] == "10001:10001"
    (ports,) = instructions("EXPOSE")
    names = ("gateway_port", "health_port", "http_port", "grpc_port", "metrics_port")
    assert [int(port) for port in ports.split()] == [option("serve", name) for name in names]


def test_what_it_runs_is_accepted():
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry)[-1] == "nvlm-trt"
    assert accepted(json.loads(command)) == "serve"


def test_its_health_is_the_true_readiness():
    (health,) = instructions("HEALTHCHECK")
    assert f"http://127.0.0.1:{option('serve', 'health_port')}/health" in health
    words = json.loads(health[health.index("[") :])
    assert words[0] == "python"
    compile(words[2], "health", "exec")


def test_no_secret_is_in_it():
    assert not re.search(r"(?i)(token|password|secret|api_?key)\s*=", TEXT)
    assert not [line for line in instructions("ENV") + instructions("ARG") if re.search("(?i)key|token|secret", line)]


@pytest.mark.parametrize(
    "script", sorted((BUILD / "helm" / "nvlm-trt" / "files").glob("*.sh")), ids=lambda file: file.name
)
def test_scripts_are_bash(script):
    done = subprocess.run([shutil.which("bash") or "bash", "-n", script], capture_output=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, b"")
