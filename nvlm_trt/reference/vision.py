"""The vision half in plain torch, as the release states it: the oracle for the ONNX graph.

It was derived independently of ``nvlm_trt.vision`` and differs wherever the same model can be stated differently: a
strided convolution instead of a matrix product over patches, all heads with the dummy ones instead of the real ones, a
variance that divides by the real width instead of a mean, pixel shuffle by indexing instead of transposing. Parameters
have the checkpoint's names.
"""

# torch is not type-checked here, so its Module is Any:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import cast

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.model.config import VisionConfig

__all__ = ["VisionReference", "read_tensor"]


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """A checkpoint tensor as float32; exact for every dtype a checkpoint may have."""
    array = checkpoint.read(name)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).float()
    return torch.from_numpy(np.array(array, np.float32))


class VisionReference(nn.Module):
    """UINT8 tiles [n, S, S, 3] to rows [n, tokens_per_tile, output_size] in the module's dtype."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = _Tower(config)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(config.shuffled_width, eps=config.projector_norm_eps),
            nn.Linear(config.shuffled_width, config.projector_hidden_size, bias=False),
            nn.GELU(),
            nn.Linear(config.projector_hidden_size, config.output_size, bias=False),
        )

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> VisionReference:
        """In float32, ready for inference; every vision tensor is used and none is missing."""
        with torch.device("meta"):
            module = cls(checkpoint.config.vision)
        names = [name for name in checkpoint.names() if not name.startswith("language_model.")]
        module.load_state_dict({name: read_tensor(checkpoint, name) for name in names}, strict=True, assign=True)
        module.eval().requires_grad_(False)
        return module

    def forward(self, tiles: NDArray[np.uint8] | Tensor) -> Tensor:
        hidden = self.vision_model(self.normalise(torch.as_tensor(tiles)))
        return cast(Tensor, self.mlp1(self.pixel_shuffle(hidden[:, 1:])))

    def normalise(self, tiles: Tensor) -> Tensor:
        """Pixels to [n, 3, S, S], by ImageNet's mean and standard deviation."""
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=tiles.device)
        pixels = ((tiles.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        return pixels.to(self.mlp1[0].weight.dtype)

    def pixel_shuffle(self, patches: Tensor) -> Tensor:
        """[n, side * side, hidden] to [n, side * side / 4, 4 * hidden]: the four patches of each square, row by row."""
        side = self.config.patches_per_side
        square = patches.unflatten(1, (side, side))
        quarters = [square[:, row::2, col::2] for row in (0, 1) for col in (0, 1)]
        return torch.cat(quarters, dim=-1).flatten(1, 2)


class _Tower(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(config) for _ in range(config.num_layers))})

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.embeddings(pixels)
        for layer in cast(nn.ModuleList, self.encoder["layers"]):
            hidden = layer(hidden)
        return cast(Tensor, hidden)


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_positions, width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(pixels), -1, -1), patches], dim=1)
        return cast(Tensor, tokens + self.position_embedding)


class _RmsNorm(nn.Module):
    """``width`` is how many leading channels carry the statistic; the weight may be wider by dummy heads."""

    def __init__(self, padded_width: int, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(padded_width))
        self.width = width
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        variance = wide[..., : self.width].square().sum(-1, keepdim=True) / self.width
        return cast(Tensor, self.weight * (wide * torch.rsqrt(variance + self.eps)).to(hidden.dtype))


class _Attention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        padded, width = config.padded_width, config.hidden_size
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(width, 3 * padded, bias=False)
        self.q_norm = _RmsNorm(padded, width, config.norm_eps)
        self.k_norm = _RmsNorm(padded, width, config.norm_eps)
        self.proj = nn.Linear(padded, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        heads = [
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in (self.q_norm(query), self.k_norm(key), value)
        ]
        mixed = functional.scaled_dot_product_attention(*heads)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))


class _Mlp(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(functional.gelu(self.fc1(hidden))))


class _Layer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1, self.norm2 = _RmsNorm(width, width, config.norm_eps), _RmsNorm(width, width, config.norm_eps)
        self.attn, self.mlp = _Attention(config), _Mlp(config)
        self.ls1, self.ls2 = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.ls1 * self.attn(self.norm1(hidden))
        return cast(Tensor, hidden + self.ls2 * self.mlp(self.norm2(hidden)))
