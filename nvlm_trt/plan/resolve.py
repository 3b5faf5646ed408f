"""Makes a recipe of a draft: every "auto" becomes a number for one model, each with its reason.

tp              what gpu.count leaves after decoder.pp
max_num_tokens  one unchunked prompt of the longest sequence
max_batch_size  as many usual requests as the KV pool holds; a larger batch has a larger prompt table, which leaves a
                smaller pool, so sizes are tried from the largest down
max_kv_tokens   the pool that is left, so that it is the same whichever of the two engines loads first
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe, RecipeDraft
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.plan.memory import gpu_memory
from nvlm_trt.plan.workload import Workload

__all__ = ["load_recipe", "resolve", "workload_of"]

# More requests at once than this gain little: each step is then bound by arithmetic, and each costs prompt table.
_MOST_REQUESTS = 256
_BATCH_STEP = 8


def load_recipe(name: str, config: NvlmConfig) -> Recipe:
    """``read_draft`` and ``resolve`` in one. Raises what they raise."""
    return resolve(read_draft(name), config)


def resolve(draft: RecipeDraft, config: NvlmConfig) -> Recipe:
    """Raises ``UsageError``: E-RECIPE-MEMORY when not one usual request fits the recipe's GPUs, E-RECIPE-TP and
    E-RECIPE-PP for a split that the decoder does not allow."""
    sizes = draft.decoder
    fixed: dict[str, Any] = {
        "tp": (_count(draft) // sizes.pp if sizes.tp == "auto" else sizes.tp),
        "max_num_tokens": sizes.max_seq_len if sizes.max_num_tokens == "auto" else sizes.max_num_tokens,
    }
    if draft.gpu is None or draft.decoder.engine == "embedded":
        return _recipe(draft, {**fixed, "max_batch_size": sizes.max_batch_size, "max_kv_tokens": 0})
    tokens = workload_of(draft).total_tokens(config)
    batch_sizes = _candidates() if sizes.max_batch_size == "auto" else [sizes.max_batch_size]
    for batch_size in batch_sizes:
        recipe = _recipe(draft, {**fixed, "max_batch_size": batch_size, "max_kv_tokens": 0})
        memory = gpu_memory(config, recipe, draft.gpu.model)
        if memory.requests(tokens) >= (batch_size if sizes.max_batch_size == "auto" else 1):
            return _recipe(draft, {**fixed, "max_batch_size": batch_size, "max_kv_tokens": memory.kv_tokens})
    needed = memory.used_bytes + tokens * memory.kv_bytes_per_token
    raise UsageError(
        "E-RECIPE-MEMORY",
        f"One request of {tokens} tokens needs {needed / 1e9:.1f} GB on a GPU of {memory.capacity_bytes / 1e9:.0f} GB.",
        "Use more or larger GPUs; nvlm-trt plan shows what fits.",
    )


def workload_of(recipe: Recipe | RecipeDraft) -> Workload:
    usual = recipe.workload
    return Workload(usual.pictures, usual.text_tokens, usual.answer_tokens)


def _candidates() -> list[int]:
    return [*range(_MOST_REQUESTS, _BATCH_STEP, -_BATCH_STEP), *range(_BATCH_STEP, 0, -1)]


def _count(draft: RecipeDraft) -> int:
    return draft.gpu.count if draft.gpu is not None and draft.decoder.engine == "tensorrt_llm" else 1


def _recipe(draft: RecipeDraft, sizes: Mapping[str, Any]) -> Recipe:
    data = draft.model_dump()
    return Recipe.model_validate({**data, "decoder": {**data["decoder"], **sizes}})
