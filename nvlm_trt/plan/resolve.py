"""Makes a recipe of a draft: every "auto" becomes a number for one model.

tp              what gpu.count leaves after decoder.pp
max_num_tokens  one unchunked prompt of the longest sequence
max_batch_size  as many usual requests as the KV pool holds; a larger batch has a larger prompt table, and that leaves
                a smaller pool, so sizes are tried from the largest down
max_kv_tokens   the pool that is left, so that it is the same whichever of the two engines loads first
"""

from __future__ import annotations

from typing import Any

from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe, RecipeDraft
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.plan.gpu import GpuModel
from nvlm_trt.plan.memory import gpu_memory
from nvlm_trt.plan.workload import Workload

__all__ = ["MOST_REQUESTS", "load_recipe", "resolve", "sized", "smallest", "workload_of"]

# More requests at once than this gain little: each step is then bound by arithmetic, and each costs prompt table.
MOST_REQUESTS = 256
_BATCH_STEP = 8


def load_recipe(name: str, config: NvlmConfig) -> Recipe:
    """``read_draft`` and ``resolve`` in one. Raises what they raise."""
    return resolve(read_draft(name), config)


def resolve(draft: RecipeDraft, config: NvlmConfig) -> Recipe:
    """Raises ``UsageError``: E-RECIPE-MEMORY when not one usual request fits the recipe's GPUs, E-RECIPE-TP and
    E-RECIPE-PP for a split that the decoder does not allow."""
    config = config.limited(draft.prompt.max_tiles)
    if draft.gpu is None or draft.decoder.engine == "embedded":
        split = draft.decoder.tp
        return _recipe(draft, tp=1 if split == "auto" else split, max_batch_size=draft.decoder.max_batch_size)
    gpu, tp = draft.gpu.model, draft.gpu.count // draft.decoder.pp
    recipe = sized(draft, config, gpu, tp)
    if recipe is not None:
        return recipe
    memory = gpu_memory(config, smallest(draft, tp), gpu)
    tokens = workload_of(draft).total_tokens(config)
    needed = memory.used_bytes + tokens * memory.kv_bytes_per_token
    raise UsageError(
        "E-RECIPE-MEMORY",
        f"{'One request' if draft.decoder.max_batch_size in (1, 'auto') else 'This batch'} of {tokens} tokens does not "
        f"fit: with one, a GPU holds {needed / 1e9:.1f} GB, and {gpu.name} has {gpu.memory_bytes / 1e9:.0f} GB.",
        "Use more or larger GPUs, or a smaller batch; nvlm-trt plan shows what fits.",
    )


def sized(draft: RecipeDraft, config: NvlmConfig, gpu: GpuModel, tp: int) -> Recipe | None:
    """The draft for ``tp`` GPUs of this model, instead of its own; None if not even one usual request fits."""
    tokens, wanted = workload_of(draft).total_tokens(config), draft.decoder.max_batch_size
    least = smallest(draft, tp)
    for batch_size in _candidates() if wanted == "auto" else [wanted]:
        recipe = least.model_copy(update={"decoder": least.decoder.model_copy(update={"max_batch_size": batch_size})})
        memory = gpu_memory(config, recipe, gpu)
        if memory.requests(tokens) >= (batch_size if wanted == "auto" else 1):
            full = recipe.decoder.model_copy(update={"max_kv_tokens": memory.kv_tokens})
            return recipe.model_copy(update={"decoder": full})
    return None


def smallest(draft: RecipeDraft, tp: int, **sizes: Any) -> Recipe:
    """The draft with a batch of one."""
    return _recipe(draft, tp=tp, max_batch_size=1, **sizes)


def workload_of(recipe: Recipe | RecipeDraft) -> Workload:
    usual = recipe.workload
    return Workload(usual.pictures, usual.text_tokens, usual.answer_tokens)


def _candidates() -> list[int]:
    return [*range(MOST_REQUESTS, _BATCH_STEP, -_BATCH_STEP), *range(_BATCH_STEP, 0, -1)]


def _recipe(draft: RecipeDraft, **sizes: Any) -> Recipe:
    data = draft.model_dump()
    decoder = data["decoder"]
    if decoder["max_num_tokens"] == "auto":
        decoder["max_num_tokens"] = decoder["max_seq_len"]
    return Recipe.model_validate({**data, "decoder": {**decoder, **sizes, "max_kv_tokens": 0}})
