from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.errors import OverloadedError, RequestError
from nvlm_trt.serving.embedding_cache import CachingEncoder, EmbeddingCache, engine_key
from nvlm_trt.serving.tile_batcher import TileBatcher
from nvlm_trt.vision.engine import check_tiles
from tests.serving.test_tile_batcher import CountingEngine, rows_of, tiles_of

KEY = bytes(32)
ROW_BYTES = 8  # two float32 rows of one value for each tile


def encoder_of(engine: CountingEngine, max_bytes: int = 1 << 20, key: bytes = KEY) -> CachingEncoder:
    return CachingEncoder(TileBatcher(engine), key, max_bytes)


def test_a_second_question_about_a_picture_skips_the_engine():
    engine = CountingEngine()
    encoder = encoder_of(engine)
    first = encoder.submit(tiles_of(1, 2, 3)).result(5)
    second = encoder.submit(tiles_of(1, 2, 3)).result(5)
    encoder.close()
    np.testing.assert_array_equal(first, second)
    assert engine.calls == [3]
    figures = encoder.figures()
    assert (figures.hits, figures.misses, figures.tiles, figures.bytes) == (3, 3, 3, 3 * ROW_BYTES)
    assert engine.closed


def test_only_what_is_new_is_encoded_and_the_order_is_the_requests():
    engine = CountingEngine()
    encoder = encoder_of(engine)
    encoder.submit(tiles_of(1, 2)).result(5)
    rows = encoder.submit(tiles_of(3, 2, 3, 1, 4)).result(5)
    encoder.close()
    np.testing.assert_array_equal(rows[:, :, :1], rows_of(3, 2, 3, 1, 4))
    assert engine.calls == [2, 2]


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=7), min_size=1, max_size=8),
    st.integers(0, 6 * ROW_BYTES),
)
def test_every_request_gets_its_rows_and_the_bound_holds_whatever_the_cache_holds(requests, max_bytes):
    encoder = encoder_of(CountingEngine(), max_bytes)
    futures = [encoder.submit(tiles_of(*values)) for values in requests]
    for values, future in zip(requests, futures, strict=True):
        np.testing.assert_array_equal(future.result(5)[:, :, :1], rows_of(*values))
    encoder.close()
    figures = encoder.figures()
    assert figures.bytes <= max_bytes
    assert figures.hits + figures.misses == sum(map(len, requests))


def test_equal_sized_pictures_that_differ_in_one_bit_do_not_mix():
    engine = CountingEngine()
    encoder = encoder_of(engine)
    picture = tiles_of(6)
    other = picture.copy()
    other[0, 0, 0, 0] ^= 1
    np.testing.assert_array_equal(encoder.submit(picture).result(5), rows_of(6))
    np.testing.assert_array_equal(encoder.submit(other).result(5), rows_of(7))
    encoder.close()
    assert engine.calls == [1, 1]


def test_requests_for_a_picture_that_is_under_way_wait_for_it():
    engine = CountingEngine()
    engine.gate.clear()
    encoder = encoder_of(engine)
    futures = [encoder.submit(tiles_of(1, 2)) for _ in range(5)]
    engine.gate.set()
    for future in futures:
        np.testing.assert_array_equal(future.result(5)[:, :, :1], rows_of(1, 2))
    encoder.close()
    assert engine.calls == [2]


def test_many_threads_get_their_own_rows():
    encoder = encoder_of(CountingEngine(), 5 * ROW_BYTES)
    wrong: list[tuple[int, ...]] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            values = tuple(int(value) for value in rng.integers(0, 9, rng.integers(1, 6)))
            if not np.array_equal(encoder.submit(tiles_of(*values)).result(5)[:, :, :1], rows_of(*values)):
                wrong.append(values)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encoder.close()
    assert not wrong


def test_an_error_is_not_kept_and_not_passed_to_who_waited():
    engine = CountingEngine()
    engine.gate.clear()
    encoder = encoder_of(engine)
    bad = encoder.submit(tiles_of(5, 255))
    waited = encoder.submit(tiles_of(5))
    engine.gate.set()
    with pytest.raises(RequestError):
        bad.result(5)
    np.testing.assert_array_equal(waited.result(5), rows_of(5))
    np.testing.assert_array_equal(encoder.submit(tiles_of(5)).result(5), rows_of(5))
    encoder.close()


def test_a_refused_request_leaves_nothing_under_way():
    engine = CountingEngine(max_tiles=2)
    engine.gate.clear()
    encoder = CachingEncoder(TileBatcher(engine, max_waiting_tiles=2), KEY, 1 << 20)
    first = encoder.submit(tiles_of(1, 2))
    with pytest.raises(OverloadedError, match="E-BUSY-VISION"):
        encoder.submit(tiles_of(3))
    engine.gate.set()
    first.result(5)
    np.testing.assert_array_equal(encoder.submit(tiles_of(3)).result(5), rows_of(3))
    encoder.close()


def test_tiles_of_another_shape_are_refused_by_the_engine_and_never_hashed():
    class CheckingEngine(CountingEngine):
        def encode(self, tiles):
            return super().encode(check_tiles(tiles, self.tile_shape, self.max_tiles))

    encoder = encoder_of(CheckingEngine())
    for tiles in (np.empty((2**40, 0, 0, 3), np.uint8), np.zeros((1, 2, 3, 3), np.uint8)):
        with pytest.raises(RequestError, match="E-IMAGE-TILES"):
            encoder.submit(tiles).result(5)
    with pytest.raises(ValueError, match="no tiles"):
        encoder.submit(tiles_of(1)[:0])
    encoder.close()
    assert encoder.figures().misses == 0


def test_the_least_recently_used_goes_first_and_what_is_too_large_never_enters():
    cache = EmbeddingCache(16)
    row = np.zeros(2, np.float32)
    cache.put(b"a", row)
    cache.put(b"b", row)
    cache.get(b"a")
    cache.put(b"c", row)
    cache.put(b"d", np.zeros(5, np.float32))
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, False]
    assert cache.num_bytes == 16
    assert len(cache) == 2


def test_the_cache_holds_no_more_than_it_counts():
    encoder = encoder_of(CountingEngine(max_tiles=4))
    encoder.submit(tiles_of(1, 2, 3, 4)).result(5)
    row = encoder.submit(tiles_of(2)).result(5)
    encoder.close()
    assert row.base is None


def test_engine_dtype_and_graph_are_in_the_key(tmp_path):
    graph = tmp_path / "vision.onnx"
    graph.write_bytes(b"one")
    key = engine_key("onnxruntime", "float32", tmp_path)
    assert key == engine_key("onnxruntime", "float32", tmp_path)
    graph.write_bytes(b"two")
    others = {engine_key(*names, tmp_path) for names in (("onnxruntime", "float32"), ("tensorrt", "float32"))}
    others.add(engine_key("onnxruntime", "bfloat16", tmp_path))
    assert len(others | {key}) == 4


def test_torch_rows_are_kept_and_joined_as_torch():
    import torch

    class TorchEngine(CountingEngine):
        def encode(self, tiles):
            return torch.from_numpy(super().encode(tiles)).to(torch.bfloat16)

    encoder = encoder_of(TorchEngine())
    encoder.submit(tiles_of(1, 2)).result(5)
    rows = encoder.submit(tiles_of(2, 3)).result(5)
    encoder.close()
    assert rows.dtype == torch.bfloat16
    assert rows[:, 0, 0].tolist() == [2, 3]
    assert encoder.figures().bytes == 3 * ROW_BYTES // 2
