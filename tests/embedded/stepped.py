"""The engine over a simulated model whose every call a test permits."""

from __future__ import annotations

import queue
import time

import numpy as np

from nvlm_trt.embedded.block_pool import BlockPool
from nvlm_trt.embedded.request import GenerationRequest
from nvlm_trt.embedded.slot_pool import SlotPool
from tests.embedded.answers import PATIENCE_S, Listener
from tests.embedded.simulated_runner import SimulatedBlockRunner, SimulatedRunner

__all__ = ["Stepped", "SteppedBlockRunner", "SteppedRunner", "make_request", "pool_over", "submit", "wait_until"]


class Stepped:
    """Every call waits for permission, so that a test decides what happens between two of them."""

    def __init__(self, *args):
        super().__init__(*args)
        self.permits: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _call(self, name):
        self.calls.put(name)
        permit = self.permits.get(timeout=PATIENCE_S)
        if isinstance(permit, BaseException):
            raise permit

    def prefill(self, *args):
        self._call("prefill")
        return super().prefill(*args)  # type: ignore[misc]

    def decode(self, *args):
        self._call("decode")
        return super().decode(*args)  # type: ignore[misc]

    def next_call(self):
        return self.calls.get(timeout=PATIENCE_S)


class SteppedRunner(Stepped, SimulatedRunner):
    def __init__(self, num_slots=4, max_seq_len=64):
        super().__init__(num_slots, max_seq_len)


class SteppedBlockRunner(Stepped, SimulatedBlockRunner):
    def __init__(self, num_blocks=32, block_size=4):
        super().__init__(num_blocks, block_size)


def pool_over(runner, max_batch_size, max_seq_len):
    if isinstance(runner, SimulatedBlockRunner):
        return BlockPool(runner, max_batch_size, max_seq_len)
    runner = runner or SimulatedRunner(max_batch_size, max_seq_len)
    return SlotPool(runner, max_batch_size, max_seq_len, block_size=4)


def make_request(name="r", ids=(1, 2, 3), max_tokens=5, **fields):
    return GenerationRequest(name, np.array(ids, np.int32), max_tokens, **fields)


def submit(engine, *args, **fields):
    listener = Listener()
    engine.submit(make_request(*args, **fields), listener)
    return listener


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)
