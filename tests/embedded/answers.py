"""Asking an engine, and judging its answers by the reference."""

from __future__ import annotations

import threading

import numpy as np
import torch

from nvlm_trt.embedded.request import FinishReason, GenerationRequest
from tests.embedded.decoder_folder import picture_prompt

PATIENCE_S = 30


class Listener:
    """Collects emissions; ``wait`` returns the last one."""

    def __init__(self):
        self.emissions = []
        self._ended = threading.Event()
        self.first = threading.Event()

    def __call__(self, emission):
        assert not self._ended.is_set(), "an emission after the last"
        self.emissions.append(emission)
        if emission.tokens:
            self.first.set()
        if emission.finish:
            self._ended.set()

    def wait(self):
        assert self._ended.wait(PATIENCE_S)
        return self.emissions[-1]

    @property
    def tokens(self):
        return [token for emission in self.emissions for token in emission.tokens]

    @property
    def log_probs(self):
        return [value for emission in self.emissions for value in emission.log_probs]


def answers(engine, prompts, max_tokens):
    """The greedy answers to (ids, prompt table) pairs, asked together."""
    listeners = [Listener() for _ in prompts]
    for (ids, table), listener in zip(prompts, listeners, strict=True):
        engine.submit(GenerationRequest("r", ids, max_tokens, table), listener)
    assert {listener.wait().finish for listener in listeners} == {FinishReason.LENGTH}
    return [listener.tokens for listener in listeners]


def regrets(reference, prompts, tokens):
    """How far each token's logit is from the reference's best after the same tokens, in deviations of the logits.

    Zero everywhere means that the reference alone would have answered the same, token for token.
    """
    for (ids, table), answer in zip(prompts, tokens, strict=True):
        logits = reference.logits([*ids.tolist(), *answer[:-1]], None if table is None else torch.from_numpy(table))
        logits = logits[-len(answer) :]
        yield (logits.max(dim=1).values - logits[range(len(answer)), answer]).numpy() / logits.std().item()


def decoder_prompts(count, num_rows, vocab_size, hidden_size):
    """Half of them with a picture of ``num_rows``, half text alone."""
    prompts = [picture_prompt(seed, 12, num_rows, vocab_size, hidden_size) for seed in range(count)]
    return [*prompts[::2], *((ids[ids < vocab_size], None) for ids, _ in prompts[1::2])]


def assert_decided_alike(reference, prompts, tokens):
    """Quantised answers: the reference decides the same, but for a few steps at which a rounding tipped the other way.

    An activation within float32's own error of the border between two e4m3 numbers falls to either side, here and
    in the reference; with random weights that moves the logits by some per cent of their deviation.
    """
    all_regrets = np.concatenate(list(regrets(reference, prompts, tokens)))
    assert (all_regrets == 0).mean() > 0.9
    assert all_regrets.max() < 0.3
