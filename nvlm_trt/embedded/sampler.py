"""Chooses next tokens from logits, for all rows of a step.

The order of operations is TensorRT-LLM's: bias; temperature; repetition, then presence and frequency penalties, counted
over prompt and answer; bad words and, before ``min_tokens``, the end id are ruled out; top-k; top-p within what top-k
left. A temperature of 0 means greedy. A log probability is of the distribution before top-k and top-p.

A draw takes one uniform number, a hash of (seed, number of tokens so far), and each row's arithmetic is its own. So the
same request gives the same tokens whoever shares its batch. Greedy rows without adjustments, the usual case, cost one
argmax over the whole batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.request import GenerationRequest, Sampling
from nvlm_trt.embedded.sequence import Sequence

__all__ = ["sample", "uniform"]

# Stands for minus infinity: far below every logit, yet differences with it stay finite.
_NEVER = np.float32(-1e30)


def sample(logits: NDArray[np.float32], sequences: list[Sequence]) -> tuple[list[int], list[tuple[float, ...]]]:
    """The tokens for ``logits`` [n, vocab], which are not changed, and each one's log probability where its request
    wants it."""
    tokens: list[int] = logits.argmax(axis=1).tolist()
    log_probs: list[tuple[float, ...]] = [()] * len(sequences)
    for index, sequence in enumerate(sequences):
        if len(sequence.tokens) >= sequence.plain_from:
            continue
        sampling, row = sequence.request.sampling, logits[index].copy()
        _adjust(row, sequence)
        if sampling.greedy or not np.isfinite(row.max()):  # a model gone astray must not take the engine with it
            token = int(row.argmax())
        else:
            token = _draw(row, sampling, uniform(sampling.seed + sequence.index, len(sequence.tokens)))
        if sequence.request.return_log_probs:
            log_probs[index] = (_log_prob(row, token),)
        if sequence.counts is not None:
            sequence.counts[token] += 1
        tokens[index] = token
    return tokens, log_probs


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) from two: SplitMix64's finaliser, over the seed and then over the counter."""
    return (_mixed(_mixed(seed) + counter) >> 11) * 2.0**-53


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


def _adjust(row: NDArray[np.float32], sequence: Sequence) -> None:
    request, sampling, tokens = sequence.request, sequence.request.sampling, sequence.tokens
    if request.embedding_bias is not None:
        row += request.embedding_bias
    if sampling.temperature not in (0, 1):
        # Below a thousandth the scaled logits would leave float32; it is greedy already.
        row /= max(sampling.temperature, 1e-3)
    if sampling.penalised:
        if sequence.counts is None:
            sequence.counts = _count(request, len(row))
        seen = sequence.counts.nonzero()[0]
        values, penalty = row[seen], np.float32(sampling.repetition_penalty)
        values = np.where(values < 0, values * penalty, values / penalty)
        row[seen] = values - sampling.presence_penalty - sampling.frequency_penalty * sequence.counts[seen]
    for *head, last in request.bad_words:
        if 0 <= last < len(row) and (not head or tokens[-len(head) :] == head):
            row[last] = _NEVER
    if request.end_id is not None and len(tokens) < request.min_tokens and 0 <= request.end_id < len(row):
        row[request.end_id] = _NEVER


def _count(request: GenerationRequest, vocab_size: int) -> NDArray[np.int32]:
    ids = request.input_ids
    return np.bincount(ids[ids < vocab_size], minlength=vocab_size).astype(np.int32)


def _log_prob(row: NDArray[np.float32], token: int) -> float:
    shifted = row.astype(np.float64) - row.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _draw(row: NDArray[np.float32], sampling: Sampling, number: float) -> int:
    """Of the ids that top-k and top-p leave, in their order, the one at which the running weight passes ``number``.

    Sorting weights without their ids is vectorised in numpy, and only the weight at which to cut is needed from it; ids
    that equal it all stay.
    """
    weights, ids = np.exp(row - row.max()), None
    if sampling.top_k or sampling.top_p < 1:
        falling = np.sort(weights)[::-1][: sampling.top_k or None]
        running = falling.cumsum(dtype=np.float64)
        last = min(int(np.searchsorted(running, sampling.top_p * running[-1])), len(running) - 1)
        ids = np.flatnonzero(weights >= falling[last])
        weights = weights[ids]
    running = weights.cumsum(dtype=np.float64)
    # number < 1, but the product may round up to the sum itself.
    target = min(number * running[-1], np.nextafter(running[-1], 0))
    place = int(np.searchsorted(running, target, side="right"))
    return place if ids is None else int(ids[place])
