"""The mini NVLM-D as a module to train: the vision reference, and a Qwen2 decoder that reads batches.

Parameters have the checkpoint's names, apart from five heads that only teach: ``letter_head`` and ``colour_head`` the
tower, ``cell_head`` and ``ink_head`` the projector, ``place_head`` the decoder.
"""

# torch is not type-checked here, so its Module is Any:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nvlm_trt.mini.scene import CELL_LETTERS, COLOURS, NO_CHAR
from nvlm_trt.model.config import DecoderConfig, NvlmConfig
from nvlm_trt.reference.vision import VisionReference

__all__ = ["MOST_PLACES", "MiniNvlm"]

# Three words of eight letters, and the end.
MOST_PLACES = 25


class MiniNvlm(nn.Module):
    def __init__(self, config: NvlmConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionReference(config.vision)
        self.language_model = nn.ModuleDict(
            {
                "model": _Decoder(config.decoder),
                "lm_head": nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False),
            }
        )
        self.letter_head = nn.Linear(config.vision.hidden_size, 2 * (NO_CHAR + 1))
        self.colour_head = nn.Linear(config.vision.hidden_size, len(COLOURS))
        self.cell_head = nn.Linear(config.decoder.hidden_size, CELL_LETTERS * (NO_CHAR + 1))
        self.place_head = nn.Linear(config.decoder.hidden_size, MOST_PLACES)
        self.ink_head = nn.Linear(config.decoder.hidden_size, len(COLOURS))
        _initialise(self, config, seed)

    def patches(self, tiles: Tensor) -> Tensor:
        """uint8 [n, S, S, 3] to [n, patches, width], the class token dropped."""
        return cast(Tensor, self.vision.vision_model(self.vision.normalise(tiles))[:, 1:])

    def rows(self, patches: Tensor) -> Tensor:
        """[n, patches, width] to the decoder's [n, tokens, hidden]."""
        return cast(Tensor, self.vision.mlp1(self.vision.pixel_shuffle(patches)))

    def logits(self, ids: Tensor, rows: Tensor, tail: int) -> Tensor:
        """What follows each of the last ``tail`` positions: [pictures, tail, vocab]."""
        return self.answer(ids, rows, tail)[0]

    def answer(self, ids: Tensor, rows: Tensor, tail: int) -> tuple[Tensor, Tensor]:
        """``logits``, and what all positions are before the last layer: [pictures, length, hidden].

        ``ids`` [pictures, length], from ``vocab_size`` up they number their picture's rows; ``rows`` [pictures,
        rows, hidden]. Padding on the right is never looked at, because attention is causal.
        """
        decoder = cast(_Decoder, self.language_model["model"])
        vocab = self.config.decoder.vocab_size
        hidden = decoder.embed_tokens(ids.clamp(max=vocab - 1))
        virtual = ids >= vocab
        hidden = hidden.masked_scatter(virtual[..., None], rows.to(hidden.dtype))
        last, before = decoder(hidden, tail)
        return cast(Tensor, self.language_model["lm_head"](last)), before


class _Decoder(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, hidden: Tensor, tail: int) -> tuple[Tensor, Tensor]:
        """[pictures, length, hidden] to the last ``tail`` positions after all layers, and to all before the last."""
        length = hidden.shape[1]
        frequencies = self.config.rope_theta ** -(
            torch.arange(0, self.config.head_dim, 2, dtype=torch.float64) / self.config.head_dim
        )
        angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
        rotation = torch.stack([angles.cos(), angles.sin()]).to(hidden)
        for layer in self.layers[:-1]:
            hidden = layer(hidden, rotation, length)
        return cast(Tensor, self.norm(self.layers[-1](hidden, rotation, tail))), hidden


class _Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn = _Attention(config)
        self.mlp = _Mlp(config)

    def forward(self, hidden: Tensor, rotation: Tensor, tail: int) -> Tensor:
        """What the last ``tail`` positions become; all that they look at is in ``hidden``."""
        mixed = self.self_attn(self.input_layernorm(hidden), rotation, tail)
        hidden = hidden[:, -tail:] + mixed
        return cast(Tensor, hidden + self.mlp(self.post_attention_layernorm(hidden)))


class _Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.q_proj = nn.Linear(config.hidden_size, config.q_size)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_size)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_size)
        self.o_proj = nn.Linear(config.q_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotation: Tensor, tail: int) -> Tensor:
        key, value = (_heads(project(hidden), self.config) for project in (self.k_proj, self.v_proj))
        query = _heads(self.q_proj(hidden[:, -tail:]), self.config)
        shared = self.config.num_heads // self.config.num_kv_heads
        key, value = (part.repeat_interleave(shared, dim=1) for part in (_rotated(key, rotation), value))
        query = _rotated(query, rotation[:, -tail:])
        # torch's causal mask begins at the first key, wherever the queries stand.
        seen = torch.ones(tail, hidden.shape[1], dtype=torch.bool, device=hidden.device).tril(hidden.shape[1] - tail)
        whole = tail == hidden.shape[1]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=None if whole else seen, is_causal=whole
        )
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).flatten(2)))


class _Mlp(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)))


def _heads(projected: Tensor, config: DecoderConfig) -> Tensor:
    return projected.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)


def _rotated(heads: Tensor, rotation: Tensor) -> Tensor:
    """Half-split rotary embedding: channel i turns with channel i + width / 2."""
    first, second = heads.chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _initialise(module: MiniNvlm, config: NvlmConfig, seed: int) -> None:
    """Inner products by fan-in, norms at one, layer scale at a half, positions from sines: near patches look alike.

    Seven of eight patch filters start blind to a patch's mean: strokes are what is read, and the background's colour
    would drown them.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if name.endswith(("ls1", "ls2")):
                parameter.fill_(0.5)
            elif name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            elif name.endswith(("embed_tokens.weight", "class_embedding")):
                parameter.normal_(0, 0.3, generator=generator)
            elif name.endswith("position_embedding"):
                parameter.copy_(0.5 * _sines(config.vision.patches_per_side, config.vision.hidden_size))
            elif name.endswith(("lm_head.weight", "_head.weight")):
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
            if name.endswith("patch_embedding.weight"):
                strokes = parameter[: len(parameter) * 7 // 8]
                strokes.sub_(strokes.mean((2, 3), keepdim=True)).mul_(2)


def _sines(side: int, width: int) -> Tensor:
    """[1, side * side + 1, width]: a quarter of the channels each for sine and cosine of the row and of the column."""
    waves = torch.arange(side)[:, None] * math.pi * torch.logspace(0, -1.3, width // 4)
    axis = torch.cat([waves.sin(), waves.cos()], dim=1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    patches = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), patches])[None]
