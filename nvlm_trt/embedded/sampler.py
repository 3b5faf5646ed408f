"""Chooses next tokens from logits.

Order of operations, TensorRT-LLM's: temperature; repetition, then presence and frequency penalties, counted over prompt and
answer; bad words and, before ``min_tokens``, the end id are ruled out; top-k; top-p within what top-k left. A temperature
of 0 means greedy. A log probability is of the distribution before top-k and top-p.

A draw takes one uniform number, a hash of (seed, number of tokens so far): the same request gives the same tokens
whoever shares its batch and whatever happened before. Greedy rows without adjustments, the usual case, cost one argmax
over the whole batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.request import GenerationRequest
from nvlm_trt.embedded.sequence import Sequence

__all__ = ["sample", "uniform"]

# Enough candidates for nearly every nucleus; where they are not, the whole row is sorted.
_NUCLEUS = 256


def sample(logits: NDArray[np.float32], sequences: list[Sequence]) -> tuple[list[int], list[tuple[float, ...]]]:
    """``logits`` [n, vocab], left unchanged. The tokens, and for each its log probability where the request wants it."""
    tokens: list[int] = logits.argmax(axis=1).tolist()
    log_probs: list[tuple[float, ...]] = [()] * len(tokens)
    for index, sequence in enumerate(sequences):
        request = sequence.request
        if _plain(request, sequence):
            continue
        row = _adjusted(logits[index], sequence)
        token = int(row.argmax()) if _greedy(request) else _draw(row, sequence)
        if request.return_log_probs:
            peak = row.max()
            log_probs[index] = (float(row[token] - peak - np.log(np.exp(row - peak).sum())),)
        if sequence.counts is not None:
            sequence.counts[token] += 1
        tokens[index] = token
    return tokens, log_probs


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) from two: the finaliser of SplitMix64 over a Weyl sequence, once per input."""
    return (_mixed(_mixed(seed) + counter) >> 11) * 2.0**-53


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


def _greedy(request: GenerationRequest) -> bool:
    return request.sampling.top_k == 1 or request.sampling.temperature == 0


def _penalised(request: GenerationRequest) -> bool:
    sampling = request.sampling
    return (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1, 0, 0)


def _plain(request: GenerationRequest, sequence: Sequence) -> bool:
    return not (
        request.return_log_probs
        or request.bad_words
        or len(sequence.tokens) < request.min_tokens
        or not _greedy(request)
        or _penalised(request)
    )


def _adjusted(logits: NDArray[np.float32], sequence: Sequence) -> NDArray[np.float64]:
    request, sampling = sequence.request, sequence.request.sampling
    row = logits.astype(np.float64)
    if sampling.temperature not in (0, 1):
        row /= sampling.temperature
    if _penalised(request):
        counts = sequence.counts
        if counts is None:
            ids = request.input_ids[request.input_ids < len(row)]
            counts = sequence.counts = np.bincount(ids, minlength=len(row)).astype(np.int32)
        seen = counts.nonzero()[0]
        values, penalty = row[seen], sampling.repetition_penalty
        values = np.where(values < 0, values * penalty, values / penalty)
        row[seen] = values - sampling.presence_penalty - sampling.frequency_penalty * counts[seen]
    for word in request.bad_words:
        head = word[:-1]
        if word[-1] < len(row) and (not head or tuple(sequence.tokens[-len(head) :]) == head):
            row[word[-1]] = -np.inf
    if request.end_id is not None and len(sequence.tokens) < request.min_tokens and 0 <= request.end_id < len(row):
        row[request.end_id] = -np.inf
    return row


def _draw(row: NDArray[np.float64], sequence: Sequence) -> int:
    sampling = sequence.request.sampling
    top_k = min(sampling.top_k or len(row), len(row))
    number = uniform(sampling.seed, len(sequence.tokens))
    if top_k == len(row) and sampling.top_p == 1:
        ids = np.arange(len(row))
        cumulated = np.exp(row - row.max()).cumsum()
    else:
        ids, cumulated = _nucleus(row, top_k, sampling.top_p)
    # At most the last id: the product may round up to the sum itself.
    return int(ids[min(np.searchsorted(cumulated, number * cumulated[-1], side="right"), len(ids) - 1)])


def _nucleus(row: NDArray[np.float64], top_k: int, top_p: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The likeliest ids, best first (the lower of two equals first), and the running sum of their weights.

    The fewest that reach ``top_p`` of the ``top_k`` likeliest ones' weight, and at least one.
    """
    total = np.exp(row - row.max()).sum() if top_k == len(row) else None
    for count in (min(top_k, _NUCLEUS), top_k):
        smallest = np.partition(row, len(row) - count)[len(row) - count]
        ids = np.flatnonzero(row >= smallest)
        ids = ids[np.argsort(-row[ids], kind="stable")][:count]
        cumulated = np.exp(row[ids] - row[ids[0]]).cumsum()
        if count == top_k:
            total = cumulated[-1]
        if total is not None and cumulated[-1] >= top_p * total:
            break
    kept = min(int(np.searchsorted(cumulated, top_p * total, side="left")) + 1, len(ids))
    return ids[:kept], cumulated[:kept]
