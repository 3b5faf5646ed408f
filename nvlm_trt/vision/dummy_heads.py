"""Removes InternViT's dummy heads from the tensors that carry them.

The release pads 25 attention heads to 32 so that 8 GPUs can share them. The padding is zeros in ``qkv``, ``q_norm``,
``k_norm`` and the columns of ``proj``, and the norms' statistics divide by the real width, so a dummy head's output is
multiplied by zero and removing it changes no bit. That holds only for zeros, so the export checks for zeros.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from nvlm_trt.errors import CheckpointError
from nvlm_trt.model.config import VisionConfig

__all__ = ["strip_dummy_heads"]


def strip_dummy_heads(name: str, array: NDArray[Any], config: VisionConfig) -> NDArray[Any]:
    """The real heads' part of tensor ``name``; other tensors come back as they are.

    Raises ``CheckpointError`` E-CKPT-DUMMY when a dummy head is not zero.
    """
    if not config.num_dummy_heads:
        return array
    real, padded, width = config.hidden_size, config.padded_width, config.hidden_size
    if name.endswith(".attn.qkv.weight"):
        by_kind = array.reshape(3, padded, width)
        kept, dropped = by_kind[:, :real].reshape(3 * real, width), by_kind[:, real:]
    elif name.endswith((".attn.q_norm.weight", ".attn.k_norm.weight")):
        kept, dropped = array[:real], array[real:]
    elif name.endswith(".attn.proj.weight"):
        kept, dropped = array[:, :real], array[:, real:]
    else:
        return array
    if dropped.any():
        raise CheckpointError(
            "E-CKPT-DUMMY",
            f"{name}: a dummy attention head holds values other than zero; {config.num_dummy_heads} heads of zeros are "
            "expected, because only those can be left out without changing the model.",
            "Check num_dummy_attention_heads in config.json and that the weights are the release's own.",
        )
    return kept
