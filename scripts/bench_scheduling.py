"""What the embedded engine adds to a step, and how many requests its pools hold, over a model that costs nothing.

    python scripts/bench_scheduling.py

The model answers from the last id and its position, so every answer is checked and none takes time; the rest of a step
is the engine's own, from planning to the listeners. The second table measures a real use: questions about pictures of
1,827 positions, asked all at once, of pools of equal memory.
"""

from __future__ import annotations

import statistics
import threading
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.block_pool import BlockPool
from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.request import Emission, GenerationRequest
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.embedded.slot_pool import SlotPool
from scripts.facts import facts, show_facts

_BLOCK_SIZE = 32


def _next(ids: Any, positions: Any, vocab_size: int) -> Any:
    return (ids * 7 + positions * 3 + 1) % vocab_size


class FreeRunner:
    """Both a ``SlotRunner`` and a ``BlockRunner``, without keys and values."""

    hidden_size, max_positions, block_size = 8, 2**20, _BLOCK_SIZE

    def __init__(self, vocab_size: int, max_batch_size: int, num_blocks: int) -> None:
        self.vocab_size, self.num_blocks = vocab_size, num_blocks
        self._logits = np.zeros((max_batch_size, vocab_size), np.float32)
        self._marked = np.zeros(max_batch_size, np.int64)
        self.ready = threading.Event()

    def prefill(self, place: Any, start: int, ids: NDArray[np.int32], prompt_table: Any) -> NDArray[np.float32]:
        self.ready.wait()
        logits: NDArray[np.float32] = self._mark(np.array([start + len(ids) - 1]), ids[-1:] % self.vocab_size)[0]
        return logits

    def decode(self, *args: NDArray[np.int32]) -> NDArray[np.float32]:
        *_, lengths, ids = args
        return self._mark(lengths, ids)

    def move(self, source: int, target: int, length: int) -> None:
        pass

    def _mark(self, positions: Any, ids: Any) -> NDArray[np.float32]:
        rows = np.arange(len(ids))
        self._logits[rows, self._marked[rows]] = 0
        self._marked[rows] = _next(ids.astype(np.int64), positions, self.vocab_size)
        self._logits[rows, self._marked[rows]] = 1
        return self._logits[: len(ids)]


class _Answer:
    """A listener; ``company`` is how many ran when its first token came."""

    def __init__(self, engine: InFlightEngine) -> None:
        self.tokens: list[int] = []
        self.ended = threading.Event()
        self.company = 0
        self._engine = engine

    def __call__(self, emission: Emission) -> None:
        self.company = self.company or self._engine.metrics()["running"]
        self.tokens += emission.tokens
        if emission.finish:
            self.ended.set()


def _pool(kind: str, runner: FreeRunner, max_batch_size: int, max_seq_len: int) -> Any:
    return _KINDS[kind](runner, max_batch_size, max_seq_len)


def _ask(pool: Any, limits: Limits, requests: list[GenerationRequest]) -> tuple[int, dict[str, Any]]:
    """All at once, every answer checked; the most that ran together, and the engine's figures."""
    engine = InFlightEngine(pool, limits, 2**20)
    answers = [_Answer(engine) for _ in requests]
    for request, answer in zip(requests, answers, strict=True):
        engine.submit(request, answer)
    pool.runner.ready.set()
    for answer in answers:
        answer.ended.wait()
    figures = engine.metrics()
    engine.close()
    vocab_size = pool.runner.vocab_size
    for request, answer in zip(requests, answers, strict=True):
        last = int(request.input_ids[-1]) % vocab_size
        for position, token in enumerate(answer.tokens, len(request.input_ids) - 1):
            last = _next(last, position, vocab_size)
            if token != last:
                raise click.ClickException("A wrong answer: nothing was measured.")
    return max(answer.company for answer in answers), figures


def _own_ms(kind: str, count: int, vocab_size: int, new_tokens: int) -> float:
    """Milliseconds of a step that are not the model's, where all ``count`` requests generate."""
    prompts = np.random.default_rng(0).integers(0, vocab_size, (count, 64)).astype(np.int32)
    runner = FreeRunner(vocab_size, count, count * -(-(64 + new_tokens) // _BLOCK_SIZE))
    requests = [GenerationRequest(str(n), ids, new_tokens) for n, ids in enumerate(prompts)]
    pool = _pool(kind, runner, count, 64 + new_tokens)
    _, figures = _ask(pool, Limits(count, 65 * count, count), requests)
    return float(1e3 * (figures["step_s"] - figures["model_s"]) / figures["steps"])


def _held(kind: str, pool_tokens: int, count: int, pictures: int) -> tuple[int, dict[str, Any]]:
    """``count`` questions at once about ``pictures`` pictures, of a pool of ``pool_tokens`` positions."""
    rng = np.random.default_rng(1)
    vocab_size, rows, max_seq_len, max_batch_size = 1024, 1827, 2048, 256
    slots = pool_tokens // max_seq_len if kind == "slots" else max_batch_size
    runner = FreeRunner(vocab_size, max_batch_size, pool_tokens // _BLOCK_SIZE)
    tables = rng.standard_normal((pictures, rows, 8)).astype(np.float32)
    virtual = np.arange(vocab_size, vocab_size + rows)
    requests = [
        GenerationRequest(
            str(n),
            np.concatenate([virtual, rng.integers(0, vocab_size, 29)]).astype(np.int32),
            128,
            tables[n % pictures],
        )
        for n in range(count)
    ]
    return _ask(_pool(kind, runner, slots, max_seq_len), Limits(slots, 8192, count), requests)


@click.command(help=__doc__)
@click.option("--vocab-size", type=click.IntRange(min=2), multiple=True, default=(1024, 152064), show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=200, show_default=True)
def main(vocab_size: tuple[int, ...], runs: int, new_tokens: int) -> None:
    show_facts(facts())
    click.echo("every answer checked")
    click.echo(f"\nOwn time of a step, ms; median of {runs} runs, least and most in brackets")
    click.echo(
        f"{'running':>8}" + "".join(f"{f'{kind}, {size:,} logits':>30}" for size in vocab_size for kind in _KINDS)
    )
    for count in (1, 32, 256):
        cells = []
        for size in vocab_size:
            for kind in _KINDS:
                times = sorted(_own_ms(kind, count, size, new_tokens) for _ in range(runs))
                cells.append(f"{statistics.median(times):.3f} ({times[0]:.3f}-{times[-1]:.3f})")
        click.echo(f"{count:>8}" + "".join(f"{cell:>30}" for cell in cells))
    click.echo("\n192 questions of 1,856 positions and 128 new tokens at once; pools of 32,768 positions")
    click.echo(f"{'pool':>8}{'pictures':>10}{'most at once':>14}{'steps':>8}{'hit rate':>10}{'preempted':>11}")
    for kind in _KINDS:
        for pictures in (192, 8, 1):
            most, figures = _held(kind, 32768, 192, pictures)
            click.echo(
                f"{kind:>8}{pictures:>10}{most:>14}{figures['steps']:>8}{figures['hit_rate']:>10.2f}"
                f"{figures['preemptions']:>11}"
            )


_KINDS: dict[str, Any] = {"slots": SlotPool, "blocks": BlockPool}

if __name__ == "__main__":
    main()
