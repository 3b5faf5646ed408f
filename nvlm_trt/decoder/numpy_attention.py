"""Causal attention in numpy, cut into parts whose shapes depend on the sequences alone, so that threads change no bit.

A part is one key-value head of one sequence; its queries are scored in runs, so that the scores of a long sequence are
never held whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AttentionPart", "attention_parts", "mixed", "scored", "softmax"]

Floats = NDArray[np.float32]

_QUERY_ROWS = 256  # queries scored at once


@dataclass(frozen=True, slots=True)
class AttentionPart:
    """One key-value head of one sequence, and the heads that share it."""

    tokens: range
    kv_head: int
    q_heads: slice


def attention_parts(q: Floats, k: Floats, lengths: Sequence[int]) -> Iterator[AttentionPart]:
    start, group = 0, q.shape[1] // k.shape[1]
    for length in lengths:
        for kv_head in range(k.shape[1]):
            yield AttentionPart(range(start, start + length), kv_head, slice(kv_head * group, (kv_head + 1) * group))
        start += length


def scored(q: Floats, k: Floats, part: AttentionPart) -> Iterator[tuple[slice, slice, Floats]]:
    """Queries, the keys they may look at, and scores [heads, queries, keys] with the future at minus infinity."""
    scale = np.float32(np.sqrt(q.shape[-1]))
    for start in part.tokens[::_QUERY_ROWS]:
        end = min(start + _QUERY_ROWS, part.tokens.stop)
        queries, keys = slice(start, end), slice(part.tokens.start, end)
        rows = (q[queries, part.q_heads] / scale).transpose(1, 0, 2)
        scores = (rows.reshape(-1, rows.shape[-1]) @ k[keys, part.kv_head].T).reshape(*rows.shape[:2], -1)
        future = np.arange(keys.start, end)[None, :] > np.arange(start, end)[:, None]
        scores[:, future] = -np.inf
        yield queries, keys, scores


def softmax(scores: Floats) -> Floats:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def mixed(weights: Floats, v: Floats) -> Floats:
    """[heads, queries, keys] times [keys, head_dim], as [queries, heads, head_dim]."""
    heads, queries, keys = weights.shape
    return (weights.reshape(-1, keys) @ v).reshape(heads, queries, -1).transpose(1, 0, 2)
