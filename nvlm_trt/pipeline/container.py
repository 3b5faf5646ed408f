"""The commands that finish a build, and serve its result, inside the recipe's container.

They are the same ``nvlm-trt build`` and ``nvlm-trt serve`` on the same folder. The container has the tools, so only the
steps that are left run, and Triton has TensorRT-LLM's backend.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import nvlm_trt
from nvlm_trt.deploy.address import in_url
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["CHECKPOINT", "DEPLOYMENT", "container_command", "serving_command"]

DEPLOYMENT = "/deployment"
CHECKPOINT = "/checkpoint"


def container_command(
    recipe: Recipe, recipe_name: str, checkpoint: Path, out: Path, until: str | None = None
) -> tuple[str, ...]:
    """``docker run`` of the recipe's image; empty when the recipe names none.

    ``recipe_name`` is what the user gave: a shipped recipe's name, or a file of their own that must be mounted too.
    The package is installed in the container from this checkout, or by its version where it was installed from a wheel.
    """
    if recipe.container is None:
        return ()
    mounts = [f"{out.resolve()}:{DEPLOYMENT}", f"{checkpoint.resolve()}:{CHECKPOINT}:ro"]
    if recipe_name.endswith(".toml"):
        # Under its own path: a calibration set is named relative to it.
        file = Path(recipe_name).parent.resolve() / Path(recipe_name).name
        mounts.append(f"{file}:{file}:ro")
        recipe_name = str(file)
    if recipe.calibration.set is not None:
        # Under its own path: that is what the recipe says, and what stands in the manifest.
        folder = Path(recipe.calibration.set).parent
        mounts.append(f"{folder}:{folder}:ro")
    last = ["--until", until] if until else []
    build = ["nvlm-trt", "build", CHECKPOINT, "--recipe", recipe_name, "-o", DEPLOYMENT, *last]
    return _docker_run(recipe, recipe.container.image, mounts, (), "nvlm-trt", build)


def serving_command(
    recipe: Recipe,
    checkpoint: Path,
    deployment: Path,
    *,
    host: str,
    ports: Sequence[int],
    arguments: Sequence[str],
    files: Sequence[Path] = (),
    stop_s: float,
) -> tuple[str, ...]:
    """``docker run`` of the recipe's image with ``nvlm-trt serve`` in it; empty when the recipe names none.

    ``ports`` are opened at ``host``, the same inside; ``arguments`` are the other ones of ``serve``, in which ``files``
    are named by absolute paths. ``stop_s`` is how long ``docker stop`` waits before it kills.
    """
    if recipe.container is None:
        return ()
    mounts = [f"{deployment.resolve()}:{DEPLOYMENT}:ro", f"{checkpoint.resolve()}:{CHECKPOINT}:ro"]
    mounts += [f"{file}:{file}:ro" for file in files]
    options = [
        # Locked memory for NCCL; the second is what its threads need then.
        *("--ulimit", "memlock=-1", "--ulimit", "stack=67108864", "--stop-timeout", f"{stop_s:.0f}"),
        # By name alone: a key's value would be in the command line, which everybody on the machine can read.
        *("-e", "NVLM_TRT_API_KEYS"),
        *(part for port in ports for part in ("-p", f"{in_url(host)}:{port}:{port}")),
    ]
    serve = ["nvlm-trt", "serve", DEPLOYMENT, "--checkpoint", CHECKPOINT, "--host", "0.0.0.0", *arguments]
    return _docker_run(recipe, recipe.container.image, mounts, options, "nvlm-trt[gateway,traces,fast]", serve)


def _docker_run(
    recipe: Recipe, image: str, mounts: Sequence[str], options: Sequence[str], package: str, command: Sequence[str]
) -> tuple[str, ...]:
    """``package`` with its extras; the command replaces the shell, so that signals reach it."""
    source = Path(nvlm_trt.__file__).parents[1]
    requirement = f"{package}=={nvlm_trt.__version__}"
    if (source / "pyproject.toml").is_file():
        mounts = [*mounts, f"{source}:/source:ro"]
        requirement = package.replace("nvlm-trt", "/source")
    return (
        *("docker", "run", "--rm", "--gpus", "all" if recipe.decoder.world_size > 1 else "device=0", "--ipc=host"),
        *options,
        *(part for mount in mounts for part in ("-v", mount)),
        image,
        *("bash", "-c", f"pip install -q {shlex.quote(requirement)} && exec {shlex.join(command)}"),
    )
