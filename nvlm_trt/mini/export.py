"""Converts the training module to a checkpoint in the release's layout, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.synthetic import CheckpointSize, write_checkpoint_of
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.mini.model import MiniNvlm
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.reference.vision import read_tensor

__all__ = ["export", "load"]

_PADDED_ROWS = ("attn.q_norm.weight", "attn.k_norm.weight")


def export(model: MiniNvlm, folder: Path, size: CheckpointSize) -> None:
    """Write ``model`` to the new ``folder``; the heads that only taught the tower stay behind.

    All values are rounded to bfloat16, also those whose tensors are stored as float32: so they are in the release. The
    dummy heads, which the module was trained without, are zeros. Raises as ``write_checkpoint_of`` does.
    """
    arrays = {
        name.removeprefix("vision."): tensor.detach().cpu().float().numpy()
        for name, tensor in model.state_dict().items()
    }
    write_checkpoint_of(folder, size, lambda spec, config: _values(arrays, spec, config))


def load(checkpoint: Checkpoint) -> MiniNvlm:
    """The module with a checkpoint's values, dummy heads included, in float32 and ready to answer."""
    model = MiniNvlm(checkpoint.config)
    names = {name.removeprefix("vision."): name for name in model.state_dict()}
    model.load_state_dict({names[name]: read_tensor(checkpoint, name) for name in checkpoint.names()}, strict=False)
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _values(arrays: Mapping[str, NDArray[Any]], spec: TensorSpec, config: NvlmConfig) -> NDArray[Any]:
    array = arrays[spec.name]
    padding = config.vision.padded_width - config.vision.hidden_size
    if spec.name.endswith("attn.qkv.weight"):
        by_part = array.reshape(3, config.vision.hidden_size, -1)
        array = np.pad(by_part, ((0, 0), (0, padding), (0, 0))).reshape(spec.shape)
    elif spec.name.endswith(_PADDED_ROWS):
        array = np.pad(array, (0, padding))
    elif spec.name.endswith("attn.proj.weight"):
        array = np.pad(array, ((0, 0), (0, padding)))
    return array.astype(ml_dtypes.bfloat16).astype(spec.numpy_dtype)
