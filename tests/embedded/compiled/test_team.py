"""Workers that come late, sleep, or are never let in, and the end of them."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np

from nvlm_trt.embedded.compiled.step_function import step_function
from tests.embedded.block_runners import continued, prefill, scattered_tables
from tests.embedded.compiled.runners import make_runner
from tests.embedded.decoder_folder import CONFIG, picture_prompt

PROMPT = picture_prompt(4, 30, 40, CONFIG["vocab_size"], CONFIG["hidden_size"])


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "nvlm-step"]


class Deaf:
    def release(self):
        pass


def test_workers_end_when_their_runner_is_closed(decoder_folder):
    before = set(workers())
    runner = make_runner(decoder_folder, threads=3)
    ours = [thread for thread in workers() if thread not in before]
    assert len(ours) == 2
    continued(runner, [PROMPT], 3)
    runner.close()
    for thread in ours:
        thread.join(30)
        assert not thread.is_alive()


def test_a_step_needs_no_worker(decoder_folder):
    """Workers that never wake: the leader does all there is, and waits for nobody."""
    runner = make_runner(decoder_folder, threads=3)
    expected = continued(runner, [PROMPT], 3)
    team = runner._team
    while not team._calls[1:, 0].all():  # all asleep
        time.sleep(0.001)
    team._locks, locks = [Deaf(), Deaf()], team._locks
    assert np.array_equal(continued(runner, [PROMPT], 3), expected)
    team._locks = locks
    team._calls[1:, 0] = 1  # as they are, although they have been called
    runner.close()


def test_steps_at_any_distance_give_the_same_bits(decoder_folder):
    """Workers are found looking, falling asleep, asleep and waking."""
    runner, rng = make_runner(decoder_folder, threads=2), np.random.default_rng(0)
    (blocks,) = scattered_tables(runner, 1)
    expected = prefill(runner, blocks, *PROMPT)
    for _ in range(200):
        time.sleep(rng.choice([0, 2e-5, 1e-4, 2e-4, 1e-3]))
        assert np.array_equal(prefill(runner, blocks, *PROMPT, chunk=70), expected)
    runner.close()


def test_code_that_nobody_else_keeps_is_kept(decoder_folder):
    """Compiled code is shared by runners of equal sizes, and must outlive its place in the books."""
    runner = make_runner(decoder_folder)
    expected = continued(runner, [PROMPT], 1)
    step_function.cache_clear()
    gc.collect()
    assert np.array_equal(continued(runner, [PROMPT], 1), expected)
