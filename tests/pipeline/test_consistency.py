from __future__ import annotations

from pathlib import Path

import pytest

from nvlm_trt.errors import ArtefactError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.consistency import recorded_recipe, stale_steps
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.pipeline.manifest import Manifest, load_manifest
from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.plan.resolve import load_recipe
from tests.pipeline.test_real_build import changed_recipe
from tests.release import RELEASE


@pytest.mark.parametrize("name", recipe_names())
def test_a_recorded_recipe_is_read_as_it_was(name: str) -> None:
    recipe = load_recipe(name, RELEASE)
    manifest = Manifest(nvlm_trt="0", checkpoint="", recipe=recipe.model_dump(mode="json"))
    assert recorded_recipe(manifest) == recipe


def test_a_build_that_stopped_leaves_what_is_behind_it_stale(
    small_checkpoint: Path, out_of_built: Path, tmp_path: Path
) -> None:
    out = out_of_built
    manifest = load_manifest(out)
    assert manifest is not None
    assert stale_steps(manifest) == {}
    recipe = changed_recipe(
        "embedded", tmp_path / "mse.toml", "[decoder]", '[calibration]\nmethod = "mse"\n\n[decoder]'
    )
    build(small_checkpoint, recipe, out, until="decoder.calibration")
    manifest = load_manifest(out)
    assert manifest is not None
    assert stale_steps(manifest) == {"decoder.checkpoint": "it was built from another decoder/calibration.json"}
    with pytest.raises(ArtefactError, match="E-ARTEFACT-STALE"):
        open_deployment(out)
    build(small_checkpoint, recipe, out)
    open_deployment(out)


def test_a_value_that_a_step_was_not_built_with(small_checkpoint: Path, out_of_built: Path, tmp_path: Path) -> None:
    out = out_of_built
    recipe = changed_recipe("embedded", tmp_path / "small.toml", "max_batch_size = 32", "max_batch_size = 4")
    build(small_checkpoint, recipe, out, until="inspect")
    manifest = load_manifest(out)
    assert manifest is not None
    assert stale_steps(manifest) == {"triton.repository": "it was built with another decoder"}
