"""The vision reference run stage by stage: every layer's output, in the memory of one layer.

Stages have the names of the graph's scopes. A stage's tensors are read, used and released before the next one's, so the
release's tower runs on a machine that cannot hold it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.reference.vision import VisionReference, read_tensor

__all__ = ["StageDtype", "reference_stages"]

StageDtype = Literal["float64", "float32", "float16", "bfloat16"]


def reference_stages(
    checkpoint: Checkpoint, tiles: NDArray[np.uint8], dtype: StageDtype = "float32"
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each stage's name and its output for ``tiles`` when weights and arithmetic are in ``dtype``; narrow results come
    back as float32, which is exact.

    Norms compute their statistics in float32 at least, as in the release's modeling code.
    """
    target: torch.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        reference = VisionReference(checkpoint.config.vision).to(target).eval()
    hidden = reference.normalise(torch.from_numpy(tiles))
    stages = [("embeddings", "vision_model.embeddings")]
    stages += [
        (f"layers.{index}", f"vision_model.encoder.layers.{index}")
        for index in range(checkpoint.config.vision.num_layers)
    ]
    for name, prefix in stages:
        hidden = _run(reference.get_submodule(prefix), checkpoint, prefix, hidden)
        yield name, _array(hidden)
    hidden = reference.pixel_shuffle(hidden[:, 1:])
    yield "pixel_shuffle", _array(hidden)
    yield "projector", _array(_run(reference.mlp1, checkpoint, "mlp1", hidden))


def _run(module: nn.Module, checkpoint: Checkpoint, prefix: str, hidden: Tensor) -> Tensor:
    state = {}
    for name in checkpoint.names():
        if name.startswith(f"{prefix}."):
            state[name.removeprefix(f"{prefix}.")] = read_tensor(checkpoint, name).to(hidden.dtype)
            checkpoint.drop_pages(name)
    module.load_state_dict(state, strict=True, assign=True)
    with torch.inference_mode():
        result: Tensor = module(hidden)
    module.to("meta")
    return result


def _array(hidden: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (hidden if hidden.dtype == torch.float64 else hidden.float()).numpy()
    return array
