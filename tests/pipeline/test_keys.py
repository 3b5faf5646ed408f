from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.pipeline.digests import DigestMemory
from nvlm_trt.pipeline.keys import MissingArtefact, checkpoint_files, entry_of, recipe_values, versions_of
from nvlm_trt.pipeline.manifest import FileEntry, Manifest, StepEntry
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.pipeline.step import Step
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.plan.resolve import load_recipe
from tests.release import RELEASE

RECIPE = load_recipe("embedded", RELEASE)
STEP = Step(
    "step",
    lambda _: None,
    outputs=("out",),
    documents=("config.json",),
    artefacts=("first",),
    resources=("calibration/set.jsonl",),
    values=("decoder.max_batch_size",),
    code=("errors",),
    libraries=("numpy",),
)


def manifest(sha256: str = "0" * 64) -> Manifest:
    entry = StepEntry(key="", inputs={}, values={}, versions={}, outputs={"first/a": FileEntry(sha256=sha256, size=1)})
    return Manifest(nvlm_trt="0", checkpoint="", recipe={}, steps={"first": entry})


def key(checkpoint: Path, step: Step = STEP, recipe: Recipe = RECIPE, before: Manifest | None = None) -> str:
    return entry_of(step, open_checkpoint(checkpoint), recipe, before or manifest(), DigestMemory()).key


def with_decoder(**changes: int) -> Recipe:
    return RECIPE.model_copy(update={"decoder": RECIPE.decoder.model_copy(update=changes)})


def test_equal_inputs_give_equal_keys(small_checkpoint: Path) -> None:
    assert key(small_checkpoint) == key(small_checkpoint)


def test_every_input_counts(small_checkpoint: Path) -> None:
    changes = [
        key(small_checkpoint, before=manifest("1" * 64)),
        key(small_checkpoint, recipe=with_decoder(max_batch_size=7)),
        *(
            key(small_checkpoint, dataclasses.replace(STEP, **{field: value}))  # type: ignore[arg-type]
            for field, value in [
                ("name", "other"),
                ("documents", ("vocab.json",)),
                ("tensors", ("mlp1.",)),
                ("resources", ()),
                ("code", ("resources",)),
                ("libraries", ("onnx",)),
                ("outputs", ("elsewhere",)),
            ]
        ),
    ]
    assert len({key(small_checkpoint), *changes}) == len(changes) + 1


def test_values_that_a_step_does_not_use_do_not_count(small_checkpoint: Path) -> None:
    assert key(small_checkpoint, recipe=with_decoder(max_seq_len=512)) == key(small_checkpoint)


def test_an_artefact_that_was_not_built_is_named(small_checkpoint: Path) -> None:
    with pytest.raises(MissingArtefact, match="second"):
        key(small_checkpoint, dataclasses.replace(STEP, artefacts=("second",)))


def test_the_files_of_a_step_are_those_that_hold_its_tensors(small_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(small_checkpoint)
    step = dataclasses.replace(STEP, tensors=("vision_model.",), documents=("config.json", "absent.json"))
    files = {file.name for file in checkpoint_files(step, checkpoint)}
    assert "config.json" in files
    assert {file.name for file in checkpoint.files("vision_model.embeddings.class_embedding")} <= files
    everything = {file.name for file in checkpoint_files(dataclasses.replace(STEP, tensors=("",)), checkpoint)}
    assert files < everything


@pytest.mark.parametrize("name", recipe_names())
def test_every_step_declares_what_exists(name: str) -> None:
    recipe = load_recipe(name, RELEASE)
    steps = steps_for(recipe)
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        assert recipe_values(recipe, step.values).keys() == set(step.values)
        assert len(versions_of(step)) == len(step.code) + len(step.libraries)
        assert all(
            any(artefact.startswith(o) or o.startswith(artefact) for s in steps for o in s.outputs)
            for artefact in step.artefacts
        )


def test_a_value_that_no_recipe_has_is_a_bug() -> None:
    with pytest.raises(KeyError):
        recipe_values(RECIPE, ("decoder.colour",))
