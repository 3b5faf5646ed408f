"""How far one decoder's next-token distributions are from another's, and where two answers part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["divergence", "first_difference", "log_softmax"]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits [n, vocab] to log probabilities [n, vocab], in nats."""
    wide: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def divergence(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(reference || other) of each row of logits, [n, vocab] to [n], in nats (Kullback and Leibler, 1951).

    It is what is lost by believing the other distribution, averaged over what the reference would say. Rounding could
    make it slightly negative, so it is clipped at zero.
    """
    own, changed = log_softmax(reference), log_softmax(other)
    nats: NDArray[np.float64] = (np.exp(own) * (own - changed)).sum(axis=1)
    return nats.clip(min=0)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """How many tokens two answers share before they part; None if they are equal. One may be a prefix of the other."""
    if list(one) == list(other):
        return None
    pairs = zip(one, other, strict=False)
    return next((index for index, (own, theirs) in enumerate(pairs) if own != theirs), min(len(one), len(other)))
