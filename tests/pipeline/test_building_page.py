"""The page about building names every recipe, every key of a recipe, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pydantic

from nvlm_trt.pipeline.recipe import RecipeDraft
from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.plan.gpu import GPUS

PAGE = (Path(__file__).parents[2] / "docs" / "building.md").read_text(encoding="utf-8")


def keys(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        choices = getattr(field.annotation, "__args__", (field.annotation,))
        section = next((one for one in choices if isinstance(one, type) and issubclass(one, pydantic.BaseModel)), None)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from keys(section, f"{name}.")


def test_every_key_is_in_the_table_and_no_other() -> None:
    table = PAGE.partition("| key |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(name for cell in cells for name in re.findall(r"`([^`]+)`", cell)) == sorted(keys(RecipeDraft))


def test_every_recipe_and_every_gpu_is_named() -> None:
    for name in [*recipe_names(), *GPUS]:
        assert f"`{name}`" in PAGE
