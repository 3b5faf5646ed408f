"""The engine over the real model: answers against the reference and against solo runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nvlm_trt.embedded.block_pool import BlockPool
from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.compiled.runner import CompiledRunner
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.request import GenerationRequest, Sampling
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.errors import UsageError
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.answers import Listener, answers, assert_decided_alike, decoder_prompts, regrets
from tests.embedded.decoder_folder import CONFIG, picture_prompt


def varied_requests(count, vocab_size, hidden_size):
    """Questions about three pictures, and without one, many with a common beginning; greedy and sampled."""
    rng = np.random.default_rng(7)
    for index in range(count):
        kind = index % 4
        ids, table = picture_prompt(kind, 40, 70 if kind else 0, vocab_size, hidden_size)
        ids = ids[: -int(rng.integers(1, 12))] if index % 3 else ids
        ids = np.concatenate([ids, rng.integers(0, vocab_size, int(rng.integers(0, 20))).astype(np.int32)])
        drawn: dict[str, Any] = {} if index % 2 else {"temperature": 0.9, "top_k": 20, "top_p": 0.95, "seed": index}
        sampling = Sampling(**drawn, repetition_penalty=1.2 if index % 5 == 0 else 1.0)
        yield GenerationRequest(
            f"r{index}",
            ids,
            int(rng.integers(1, 60)),
            table if kind else None,
            sampling=sampling,
            return_log_probs=True,
        )


RUNNERS = ("compiled", "onnxruntime")


def open_engine(folder, **options):
    return EmbeddedEngine(
        folder, **{"max_batch_size": 17, "max_seq_len": 192, "max_num_tokens": 40, "chunk": 16, "threads": 1, **options}
    )


def run_alone(engine, requests):
    listeners = []
    for request in requests:
        listeners.append(Listener())
        engine.submit(request, listeners[-1])
        listeners[-1].wait()
    return listeners


class Company:
    """Submits requests in a random order after random numbers of tokens, so that the crowd never hangs on the clock."""

    def __init__(self, engine, requests, rng):
        self.listeners = [Listener() for _ in requests]
        self.most_running = 0
        self._engine = engine
        self._requests = requests
        self._rng = rng
        # The longest answer comes first: while it lasts, the others arrive.
        first = max(range(len(requests)), key=lambda index: requests[index].max_tokens)
        self._arrivals = [index for index in rng.permutation(len(requests)) if index != first]
        self._emissions_to_wait = 0
        self._submit(first)

    def _submit(self, index):
        def listen(emission):
            self._arrive()
            self.listeners[index](emission)

        self._engine.submit(self._requests[index], listen)

    def _arrive(self):
        self.most_running = max(self.most_running, self._engine.metrics()["running"])
        self._emissions_to_wait -= 1
        while self._arrivals and self._emissions_to_wait <= 0:
            self._submit(self._arrivals.pop())
            self._emissions_to_wait = int(self._rng.integers(0, 4))


@pytest.mark.parametrize("runner", RUNNERS)
def test_greedy_answers_are_the_references_token_for_token(decoder_folder, runner):
    engine = open_engine(decoder_folder, runner=runner, quantize_activations=False)
    prompts = decoder_prompts(8, 40, CONFIG["vocab_size"], CONFIG["hidden_size"])
    tokens = answers(engine, prompts, 24)
    engine.close()
    reference = ReferenceDecoder(decoder_folder, quantize_activations=False)
    assert max(map(np.max, regrets(reference, prompts, tokens))) == 0
    ids, table = prompts[0]
    assert tokens[0] == reference.generate(ids.tolist(), 24, torch.from_numpy(table))


@pytest.mark.parametrize("runner", RUNNERS)
def test_quantised_greedy_answers_are_the_references(decoder_folder, runner):
    engine = open_engine(decoder_folder, runner=runner)
    prompts = decoder_prompts(8, 40, CONFIG["vocab_size"], CONFIG["hidden_size"])
    tokens = answers(engine, prompts, 24)
    engine.close()
    assert_decided_alike(ReferenceDecoder(decoder_folder, dtype=torch.float64), prompts, tokens)


def assert_as_alone(engine, requests, alone, seed, running):
    """``running`` of them at once, at least."""
    company = Company(engine, requests, np.random.default_rng(seed))
    for listener in company.listeners:
        listener.wait()
    assert company.most_running >= running
    assert [listener.tokens for listener in company.listeners] == [listener.tokens for listener in alone]
    assert [listener.log_probs for listener in company.listeners] == [listener.log_probs for listener in alone]
    metrics = engine.metrics()
    assert metrics["free_tokens"] == metrics["pool_tokens"]
    return metrics


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("runner", RUNNERS)
def test_answers_do_not_depend_on_the_company_nor_on_what_is_reused(decoder_folder, runner, quantize):
    """Each request's tokens and log probabilities, to the last bit, alone and among 16 others arriving at random."""
    requests = list(varied_requests(17, CONFIG["vocab_size"], CONFIG["hidden_size"]))
    engine = open_engine(decoder_folder, runner=runner, quantize_activations=quantize, reuse_prefixes=False)
    alone = run_alone(engine, requests)
    assert engine.metrics()["reused_tokens"] == 0
    engine.close()
    engine = open_engine(decoder_folder, runner=runner, quantize_activations=quantize)
    for seed in range(2):
        metrics = assert_as_alone(engine, requests, alone, seed, running=6)
    assert metrics["hit_rate"] > 0.4
    engine.close()


def test_answers_do_not_depend_on_who_was_thrown_out_of_the_pool(decoder_folder):
    """The real model over a pool of blocks that is too small for its batch."""
    requests = list(varied_requests(10, CONFIG["vocab_size"], CONFIG["hidden_size"]))
    engine = open_engine(decoder_folder, reuse_prefixes=False)
    alone = run_alone(engine, requests)
    engine.close()
    runner = CompiledRunner(
        DecoderCheckpoint(decoder_folder), max_batch_size=6, max_seq_len=192, max_rows=16, num_blocks=13, threads=1
    )
    engine = InFlightEngine(BlockPool(runner, 6, 192), Limits(6, 40, chunk=16), 192)
    for seed in range(2):
        metrics = assert_as_alone(engine, requests, alone, seed, running=3)
    assert metrics["preemptions"] > 1
    assert metrics["hit_rate"] > 0.4
    engine.close()


def test_a_second_question_about_a_picture_computes_little_more_than_its_words(decoder_folder):
    engine = open_engine(decoder_folder)
    ids, table = picture_prompt(3, 10, 100, CONFIG["vocab_size"], CONFIG["hidden_size"])
    other = table.copy()
    other[60] += 0.25
    first, again, another = (
        GenerationRequest("r", ids, 5, rows, return_log_probs=True) for rows in (table, table, other)
    )
    computed = []
    for request in (first, again, another):
        before = engine.metrics()["prefill_tokens"]
        run_alone(engine, [request])
        computed.append(engine.metrics()["prefill_tokens"] - before)
    engine.close()
    assert computed == [110, 110 - 96, 110 - 64]


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(decoder_folder):
    engine = open_engine(decoder_folder)
    samplings = [Sampling(top_k=0, seed=seed) for seed in (1, 1, 2)]
    requests = [GenerationRequest("r", np.arange(9, dtype=np.int32), 20, sampling=one) for one in samplings]
    first, again, other = (listener.tokens for listener in run_alone(engine, requests))
    engine.close()
    assert first == again != other


def test_limits_beyond_the_model_are_refused(decoder_folder):
    for wrong in ({"max_seq_len": 1}, {"max_seq_len": 4096}, {"max_num_tokens": 17}):
        with pytest.raises(UsageError) as caught:
            open_engine(decoder_folder, **wrong)
        assert caught.value.code == "E-USAGE-LIMITS"
