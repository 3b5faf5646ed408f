"""A recipe says what to build: which engines, how large, for which GPUs. One TOML file each in ``build/recipes``.

Sizes that follow from others (the prompt table, the vision profile's largest batch) are computed, never typed in.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import pydantic

from nvlm_trt.errors import UsageError
from nvlm_trt.resources import resource_folder

__all__ = [
    "ContainerRecipe",
    "DecoderRecipe",
    "PromptRecipe",
    "Recipe",
    "VisionRecipe",
    "load_recipe",
    "recipe_names",
]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class VisionRecipe(_Section):
    """``profile`` is the smallest, the usual and the largest number of tiles in one call of the engine."""

    engine: Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    profile: tuple[int, int, int] = (1, 7, 28)

    @pydantic.field_validator("profile", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> VisionRecipe:
        low, usual, high = self.profile
        if not 1 <= low <= usual <= high:
            raise ValueError("profile must be three rising numbers of tiles, from 1 up")
        return self


class DecoderRecipe(_Section):
    engine: Literal["embedded", "tensorrt_llm"]
    quantization: Literal["fp8"] = "fp8"
    kv_cache: Literal["bf16"] = "bf16"
    tp: Literal[1, 2, 4, 8] = 1
    max_batch_size: int = pydantic.Field(ge=1, le=2048)
    max_seq_len: int = pydantic.Field(ge=16, le=131072)
    max_num_tokens: int = pydantic.Field(default=8192, ge=16)
    quantize_activations: bool = True


class PromptRecipe(_Section):
    style: Literal["hf", "megatron"] = "hf"
    system: str = "Answer the questions."
    max_images: int = pydantic.Field(default=4, ge=1, le=16)


class ContainerRecipe(_Section):
    """The image that builds and serves: both must be the same one, because a plan is tied to its TensorRT."""

    image: str
    gpus: int = pydantic.Field(ge=1, le=64)


class Recipe(_Section):
    name: str
    description: str
    vision: VisionRecipe
    decoder: DecoderRecipe
    prompt: PromptRecipe = PromptRecipe()
    container: ContainerRecipe | None = None

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Recipe:
        if self.decoder.engine == "tensorrt_llm" and self.container is None:
            raise ValueError("a tensorrt_llm decoder needs a [container] section")
        if self.decoder.engine == "embedded" and self.decoder.tp != 1:
            raise ValueError("the embedded decoder reads checkpoints with tp = 1")
        return self

    @property
    def production(self) -> bool:
        return self.decoder.engine == "tensorrt_llm"


def recipe_names() -> list[str]:
    return sorted(file.stem for file in resource_folder("recipes").glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one of the user's by the path of a ``.toml`` file.

    Raises ``UsageError``: E-RECIPE-NAME when there is none, E-RECIPE-SYNTAX and E-RECIPE-KEY when it cannot be read.
    """
    own = name.endswith(".toml")
    file = Path(name) if own else resource_folder("recipes") / f"{name}.toml"
    if not file.is_file() or (not own and name not in recipe_names()):
        raise UsageError(
            "E-RECIPE-NAME",
            f"There is no recipe {name!r}.",
            f"Use one of {', '.join(recipe_names())}, or a .toml file.",
        )
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("E-RECIPE-SYNTAX", f"{file.name} is not TOML.", f"Correct it: {error}.") from None
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the recipe"
        raise UsageError("E-RECIPE-KEY", f"{file.name}: {key}: {first['msg']}.", "Correct the key.") from None
