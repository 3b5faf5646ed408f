from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.errors import ArtefactError, CancelledError, OverloadedError, RequestError
from nvlm_trt.serving.tile_batcher import TileBatcher, share_call


class CountingEngine:
    """Gives each tile two rows of its own first value, and remembers how many tiles each call had."""

    tile_shape = (2, 2, 3)
    tokens_per_tile = 2
    output_size = 1

    def __init__(self, max_tiles: int = 4) -> None:
        self.max_tiles = max_tiles
        self.calls: list[int] = []
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def encode(self, tiles):
        self.entered.set()
        assert self.gate.wait(5)
        self.calls.append(len(tiles))
        assert 1 <= len(tiles) <= self.max_tiles
        if (tiles == 255).any():
            raise RequestError("E-IMAGE-TEST", "A tile is white.")
        return np.repeat(tiles[:, :1, :1, 0], 2, axis=1).astype(np.float32)

    def close(self) -> None:
        self.closed = True


def tiles_of(*values: int) -> NDArray[Any]:
    return np.stack([np.full(CountingEngine.tile_shape, value, np.uint8) for value in values])


def rows_of(*values: int) -> NDArray[Any]:
    return np.array(values, np.float32).reshape(-1, 1, 1).repeat(2, axis=1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 12))
def test_a_call_is_as_full_as_it_can_be_and_serves_the_first_first(waiting, max_tiles):
    shares = share_call(waiting, max_tiles)
    assert sum(shares) == min(sum(waiting), max_tiles)
    assert shares[:-1] == waiting[: len(shares) - 1]
    assert 1 <= shares[-1] <= waiting[len(shares) - 1]


@pytest.mark.parametrize(("share_calls", "calls"), [(True, [1, 4, 1]), (False, [1, 2, 2, 1])])
def test_requests_that_wait_together_share_calls_if_they_may(share_calls, calls):
    engine = CountingEngine(max_tiles=4)
    engine.gate.clear()
    batcher = TileBatcher(engine, share_calls=share_calls)
    first = batcher.submit(tiles_of(9))
    assert engine.entered.wait(5)
    waiting = [batcher.submit(tiles_of(*values)) for values in ((1, 2), (3, 4), (5,))]
    engine.gate.set()
    assert np.array_equal(first.result(5), rows_of(9))
    for future, values in zip(waiting, ((1, 2), (3, 4), (5,)), strict=True):
        np.testing.assert_array_equal(future.result(5), rows_of(*values))
    assert engine.calls == calls
    batcher.close()


@pytest.mark.parametrize("values", [(7,), (1, 2, 3, 4), (1, 2, 3, 4, 5), tuple(range(13))])
def test_a_request_gets_its_rows_whatever_its_size(values):
    engine = CountingEngine(max_tiles=4)
    batcher = TileBatcher(engine)
    rows = batcher.submit(tiles_of(*values)).result(5)
    batcher.close()
    np.testing.assert_array_equal(rows[:, :, :1], rows_of(*values))
    assert sum(engine.calls) == len(values)
    assert max(engine.calls) <= 4


@given(st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=9), min_size=1, max_size=8))
def test_requests_that_wait_together_share_calls_and_keep_their_rows(requests):
    engine = CountingEngine(max_tiles=4)
    engine.gate.clear()
    batcher = TileBatcher(engine)
    futures = [batcher.submit(tiles_of(*values)) for values in requests]
    engine.gate.set()
    for values, future in zip(requests, futures, strict=True):
        np.testing.assert_array_equal(future.result(5)[:, :, :1], rows_of(*values))
    batcher.close()
    # The first call may have left before the others came; all later ones are full, but for the last.
    assert all(size == 4 for size in engine.calls[1:-1])


def test_a_bad_request_spoils_only_itself():
    engine = CountingEngine(max_tiles=8)
    engine.gate.clear()
    batcher = TileBatcher(engine)
    batcher.submit(tiles_of(0))  # holds the thread, so that the next three share a call
    before, bad, after = (batcher.submit(tiles_of(*values)) for values in ((1, 2), (3, 255), (4,)))
    engine.gate.set()
    np.testing.assert_array_equal(before.result(5)[:, :, :1], rows_of(1, 2))
    np.testing.assert_array_equal(after.result(5)[:, :, :1], rows_of(4))
    with pytest.raises(RequestError):
        bad.result(5)
    np.testing.assert_array_equal(batcher.submit(tiles_of(9)).result(5)[:, :, :1], rows_of(9))
    batcher.close()


def test_too_many_waiting_tiles_are_refused_at_once_but_a_lone_large_request_is_not():
    engine = CountingEngine(max_tiles=2)
    engine.gate.clear()
    batcher = TileBatcher(engine, max_waiting_tiles=3)
    large = batcher.submit(tiles_of(1, 2, 3, 4))
    with pytest.raises(OverloadedError, match="E-BUSY-VISION"):
        batcher.submit(tiles_of(5))
    engine.gate.set()
    assert len(large.result(5)) == 4
    batcher.close()


def test_close_answers_who_still_waits_and_closes_the_engine():
    engine = CountingEngine(max_tiles=1)
    engine.gate.clear()
    batcher = TileBatcher(engine)
    futures = [batcher.submit(tiles_of(value)) for value in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    engine.gate.set()
    closing.join(5)
    with pytest.raises(CancelledError, match="E-CANCEL-SHUTDOWN"):
        futures[-1].result(0)
    with pytest.raises(CancelledError, match="E-CANCEL-SHUTDOWN"):
        batcher.submit(tiles_of(1))
    assert engine.closed


def test_no_tiles_are_a_mistake_of_the_caller():
    batcher = TileBatcher(CountingEngine())
    with pytest.raises(ValueError, match="no tiles"):
        batcher.submit(tiles_of(1)[:0])
    batcher.close()


def test_torch_rows_of_several_calls_are_joined_as_torch():
    import torch

    class TorchEngine(CountingEngine):
        def encode(self, tiles):
            return torch.from_numpy(super().encode(tiles)).to(torch.bfloat16)

    batcher = TileBatcher(TorchEngine(max_tiles=2))
    rows = batcher.submit(tiles_of(1, 2, 3)).result(5)
    batcher.close()
    assert rows.dtype == torch.bfloat16
    assert rows[:, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("shape", [(2**40, 0, 0, 3), (1, 2, 3, 3)])
def test_tiles_that_no_engine_takes_never_stand_in_line(shape):
    batcher = TileBatcher(CountingEngine())
    with pytest.raises(RequestError, match="E-IMAGE-TILES"):
        batcher.submit(np.zeros(shape, np.uint8))
    assert batcher.submit(tiles_of(1)).result(5).tolist() == rows_of(1).tolist()
    batcher.close()


class SmallMemoryEngine(CountingEngine):
    """Has memory for ``fits`` tiles at once, whatever its profile says."""

    def __init__(self, fits: int) -> None:
        super().__init__(max_tiles=16)
        self.fits = fits

    def encode(self, tiles):
        if len(tiles) > self.fits:
            raise ArtefactError("E-ENGINE-MEMORY", f"No memory for {len(tiles)} tiles.")
        return super().encode(tiles)


@pytest.mark.parametrize("fits", [1, 3, 7])
@given(requests=st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=20), min_size=1, max_size=4))
def test_requests_that_do_not_fit_the_memory_are_halved_until_they_do(fits, requests):
    engine = SmallMemoryEngine(fits)
    engine.gate.clear()
    batcher = TileBatcher(engine)
    futures = [batcher.submit(tiles_of(*values)) for values in requests]
    engine.gate.set()
    for values, future in zip(requests, futures, strict=True):
        np.testing.assert_array_equal(future.result(5)[:, :, :1], rows_of(*values))
    batcher.close()
    assert max(engine.calls) <= fits


def test_a_tile_that_does_not_fit_alone_is_a_clear_error_and_the_batcher_lives_on():
    engine = SmallMemoryEngine(0)
    batcher = TileBatcher(engine)
    with pytest.raises(ArtefactError, match="E-ENGINE-MEMORY"):
        batcher.submit(tiles_of(1, 2, 3)).result(5)
    engine.fits = 2
    np.testing.assert_array_equal(batcher.submit(tiles_of(1, 2, 3)).result(5)[:, :, :1], rows_of(1, 2, 3))
    batcher.close()
