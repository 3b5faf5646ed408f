"""Caches the rows of encoded tiles, so that a second question about a picture skips the vision engine.

The unit is the tile. A tile's rows depend on its bytes alone, the model that encodes sees no borders between pictures,
and blank tiles of different pages are one. A key is 256 bits of hash over all bytes of the tile and over what decides
the rows (graph, engine, dtype), so pictures of equal size never mix. Hashing costs under a thousandth of encoding.

Requests that need a tile already being encoded wait for it. If that encoding fails, the error belongs to the other
request, and those that waited encode for themselves.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.serving.tile_batcher import Rows, TileBatcher, join_rows

__all__ = ["CacheFigures", "CachingEncoder", "EmbeddingCache", "engine_key"]

_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """Tiles found and not found, and calls of the engine, since the start; tiles and bytes held now."""

    hits: int
    misses: int
    calls: int
    tiles: int
    bytes: int


def engine_key(kind: str, dtype: str, vision_folder: Path) -> bytes:
    """32 bytes that differ whenever the same tile may get other rows: engine, dtype, graph."""
    digest = hashlib.blake2b(f"{kind}\0{dtype}\0".encode(), digest_size=_HASH_BYTES)
    for name in ("vision.onnx", "weights.json", "vision.plan.json"):
        file = vision_folder / name
        digest.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b"\0")
    return digest.digest()


class EmbeddingCache:
    """The rows of at most ``max_bytes`` bytes of tiles; the least recently used go first. Not thread-safe by itself."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rows: OrderedDict[bytes, Rows] = OrderedDict()
        self._bytes = 0

    @property
    def num_bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Rows | None:
        """[1, tokens_per_tile, output_size], not to be written to, or None."""
        rows = self._rows.get(key)
        if rows is not None:
            self._rows.move_to_end(key)
        return rows

    def put(self, key: bytes, rows: Rows) -> None:
        """Keeps ``rows`` itself, which must own its memory; rows larger than the whole cache are not kept."""
        if key in self._rows or rows.nbytes > self._max_bytes:
            return
        self._rows[key] = rows
        self._bytes += rows.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._rows.popitem(last=False)[1].nbytes


class CachingEncoder:
    """A ``TileBatcher`` behind a cache; the same ``submit``. Owns the batcher."""

    def __init__(self, batcher: TileBatcher, key: bytes, max_bytes: int) -> None:
        self._batcher = batcher
        self._key = key
        self._cache = EmbeddingCache(max_bytes)
        self._under_way: dict[bytes, Future[Rows]] = {}
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def submit(self, tiles: NDArray[np.uint8]) -> Future[Rows]:
        """As ``TileBatcher.submit``; the rows are not to be written to. Callbacks run in the batcher's thread, or in
        the caller's if all was known."""
        if len(tiles) == 0 or tiles.dtype != np.uint8 or tiles.shape[1:] != self._batcher.tile_shape:
            # The engine refuses these. They are not hashed first: tiles without pixels can be 2^40 in no bytes.
            return self._batcher.submit(tiles)
        keys = [self._hash(tile) for tile in tiles]
        answer: Future[Rows] = Future()
        answer.set_running_or_notify_cancel()
        rows: dict[bytes, Rows] = {}
        awaited: dict[bytes, Future[Rows]] = {}
        mine: dict[bytes, int] = {}
        with self._lock:
            for index, key in enumerate(keys):
                known = self._cache.get(key)
                if known is not None:
                    rows[key] = known
                elif key in self._under_way:
                    awaited[key] = self._under_way[key]
                else:
                    mine[key] = index
                    awaited[key] = self._under_way[key] = Future()
            self._misses += len(mine)
            self._hits += len(keys) - len(mine)
        if mine:
            try:
                encoded = self._batcher.submit(np.ascontiguousarray(tiles[list(mine.values())]))
            except Exception as error:
                self._fail(list(mine), error)
                raise
            encoded.add_done_callback(lambda done: self._arrive(list(mine), done))
        self._when_all(keys, rows, awaited, tiles, set(mine), answer)
        return answer

    def figures(self) -> CacheFigures:
        with self._lock:
            return CacheFigures(
                hits=self._hits,
                misses=self._misses,
                calls=self._batcher.num_calls,
                tiles=len(self._cache),
                bytes=self._cache.num_bytes,
            )

    def close(self) -> None:
        """As ``TileBatcher.close``."""
        self._batcher.close()

    def _hash(self, tile: NDArray[np.uint8]) -> bytes:
        return hashlib.blake2b(np.ascontiguousarray(tile).data, digest_size=_HASH_BYTES, key=self._key).digest()

    def _arrive(self, keys: list[bytes], encoded: Future[Rows]) -> None:
        error = encoded.exception()
        if error is not None:
            self._fail(keys, error)
            return
        # Copies: a slice would keep the whole batch alive, and the cache would hold more than it counts.
        singles = [_own(encoded.result()[index : index + 1]) for index in range(len(keys))]
        with self._lock:
            for key, single in zip(keys, singles, strict=True):
                self._cache.put(key, single)
            landed = [self._under_way.pop(key) for key in keys]
        for future, single in zip(landed, singles, strict=True):
            future.set_result(single)

    def _fail(self, keys: list[bytes], error: BaseException) -> None:
        with self._lock:
            failed = [self._under_way.pop(key) for key in keys]
        for future in failed:
            future.set_exception(error)

    def _when_all(
        self,
        keys: list[bytes],
        rows: dict[bytes, Rows],
        awaited: dict[bytes, Future[Rows]],
        tiles: NDArray[np.uint8],
        mine: set[bytes],
        answer: Future[Rows],
    ) -> None:
        missing = len(awaited)
        lock = threading.Lock()

        def landed(_: Any) -> None:
            nonlocal missing
            with lock:
                missing -= 1
                if missing:
                    return
            finish()

        def finish() -> None:
            errors = {key: future.exception() for key, future in awaited.items() if future.exception()}
            if not errors:
                rows.update((key, future.result()) for key, future in awaited.items())
                parts = [rows[key] for key in keys]
                answer.set_result(parts[0] if len(parts) == 1 else join_rows(parts))
            elif mine & errors.keys():
                answer.set_exception(next(iter(errors[key] for key in errors if key in mine)))
            else:
                self._alone(tiles, answer)

        if not awaited:
            finish()
        for future in awaited.values():
            future.add_done_callback(landed)

    def _alone(self, tiles: NDArray[np.uint8], answer: Future[Rows]) -> None:
        def copy(encoded: Future[Rows]) -> None:
            error = encoded.exception()
            if error is None:
                answer.set_result(encoded.result())
            else:
                answer.set_exception(error)

        try:
            self._batcher.submit(tiles).add_done_callback(copy)
        except Exception as error:
            answer.set_exception(error)


def _own(rows: Rows) -> Rows:
    return rows.copy() if isinstance(rows, np.ndarray) else rows.clone()
