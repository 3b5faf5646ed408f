"""The decoder in torch, one rank's part of it: rows in, logits out, keys and values in a pool of blocks.

    rows ─► (norm ─► qkv ─► rotate, store ─► attend ─► dense ─► + norm ─► fc_gate ─► gated ─► proj ─► +) per layer
         ─► norm ─► logits

The norm that reads the residual also adds it, and each operation rounds to what the next linear needs, so a layer is
four matrix products and five or six small operations between them. ``dense`` and ``proj`` leave a part of a sum on each
rank. Apart from these only the logits need other ranks, and the embedding where the checkpoint splits it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from nvlm_trt.embedded.config import CheckpointConfig, EmbeddingSplit, linear_shapes
from nvlm_trt.embedded.pytorch.linear import Linear, LinearLoader
from nvlm_trt.embedded.pytorch.ops import Ops, Step
from nvlm_trt.embedded.pytorch.ranks import Ranks

__all__ = ["TorchDecoder"]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Norms in float32, the bias in the compute dtype."""

    input_norm: Tensor
    qkv: Linear
    qkv_bias: Tensor
    dense: Linear
    post_norm: Tensor
    fc_gate: Linear
    proj: Linear


class TorchDecoder:
    """Weights are loaded, tensor by tensor, on construction."""

    def __init__(self, config: CheckpointConfig, linears: LinearLoader, ops: Ops, ranks: Ranks) -> None:
        self._config = config
        self._linears = linears
        self._ops = ops
        self._ranks = ranks
        shapes = {spec.name: spec.shape for spec in config.tensors()}
        names = ("transformer.vocab_embedding.weight", "lm_head.weight")
        self._embedding, self._head = (self._tensor(name, *shapes[name], dtype=linears.dtype) for name in names)
        self._norm = self._tensor("transformer.ln_f.weight", config.decoder.hidden_size)
        self._layers = [self._load(f"transformer.layers.{index}") for index in range(config.decoder.num_layers)]

    def embed(self, ids: Tensor) -> Tensor:
        """Ids of the vocabulary, int [rows], to [rows, hidden]."""
        match self._config.embedding:
            case EmbeddingSplit.WHOLE:
                return embedding(ids, self._embedding)
            case EmbeddingSplit.COLUMNS:
                return self._ranks.concat(embedding(ids, self._embedding))
            case EmbeddingSplit.ROWS:
                held = len(self._embedding)
                local = ids - self._ranks.rank * held
                elsewhere = (local < 0) | (local >= held)
                rows = embedding(local.masked_fill(elsewhere, 0), self._embedding)
                return self._ranks.sum(rows.masked_fill(elsewhere[:, None], 0))

    def logits(self, hidden: Tensor, cache: Tensor, step: Step) -> Tensor:
        """[rows, hidden] to float32 [rows, vocab], or [1, vocab] of the last row where the step is ``together``.

        ``cache`` is [layers, 2, blocks, kv_heads, block_size, head_dim].
        """
        ops, branch = self._ops, None
        for layer, held in zip(self._layers, cache, strict=True):
            hidden, x = ops.add_norm(hidden, branch, layer.input_norm, layer.qkv.input)
            query = ops.rotate_and_store(layer.qkv(x), layer.qkv_bias, held, step)
            branch = self._ranks.sum(layer.dense(ops.attend(query, held, step, layer.dense.input)))
            hidden, x = ops.add_norm(hidden, branch, layer.post_norm, layer.fc_gate.input)
            branch = self._ranks.sum(layer.proj(ops.gated(layer.fc_gate(x), layer.proj.input)))
        if step.together:
            hidden, branch = hidden[-1:], None if branch is None else branch[-1:]
        _, x = ops.add_norm(hidden, branch, self._norm, None)
        logits = self._ranks.concat(linear(x, self._head).float())
        return logits[:, : self._config.decoder.vocab_size]  # ranks pad a vocabulary that they do not divide

    def _load(self, layer: str) -> _Layer:
        hidden, shapes = self._config.decoder.hidden_size, linear_shapes(self._config.part)

        def load(*names: str) -> Linear:
            return self._linears.load([f"{layer}.{name}" for name in names], shapes[names[0]])

        return _Layer(
            input_norm=self._tensor(f"{layer}.input_layernorm.weight", hidden),
            qkv=load("attention.qkv"),
            qkv_bias=self._tensor(f"{layer}.attention.qkv.bias", self._config.part.qkv_size, dtype=self._linears.dtype),
            dense=load("attention.dense"),
            post_norm=self._tensor(f"{layer}.post_layernorm.weight", hidden),
            fc_gate=load("mlp.fc", "mlp.gate"),
            proj=load("mlp.proj"),
        )

    def _tensor(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self._linears.device)
        self._linears.source.fill(name, tensor)
        return tensor
