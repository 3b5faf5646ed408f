"""The command that finishes a build inside the recipe's container.

It is the same ``nvlm-trt build`` on the same folder: there the tools exist, so only the steps that are left run.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import nvlm_trt
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["CHECKPOINT", "DEPLOYMENT", "container_command"]

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
    source = Path(nvlm_trt.__file__).parents[1]
    requirement = f"nvlm-trt=={nvlm_trt.__version__}"
    if (source / "pyproject.toml").is_file():
        mounts.append(f"{source}:/source:ro")
        requirement = "/source"
    if recipe_name.endswith(".toml"):
        mounts.append(f"{Path(recipe_name).resolve()}:/recipe.toml:ro")
        recipe_name = "/recipe.toml"
    if recipe.calibration.set is not None:
        # Under its own path: that is what the recipe says, and what stands in the manifest.
        folder = Path(recipe.calibration.set).parent
        mounts.append(f"{folder}:{folder}:ro")
    last = ["--until", until] if until else []
    build = shlex.join(["nvlm-trt", "build", CHECKPOINT, "--recipe", recipe_name, "-o", DEPLOYMENT, *last])
    return (
        *("docker", "run", "--rm", "--gpus", "all" if recipe.decoder.world_size > 1 else "device=0", "--ipc=host"),
        *(part for mount in mounts for part in ("-v", mount)),
        recipe.container.image,
        *("bash", "-c", f"pip install -q {requirement} && {build}"),
    )
