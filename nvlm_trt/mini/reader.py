"""Answers questions about pictures without a server, by two decoders behind one vision engine.

embedded   the FP8 decoder as it is served
plain      the checkpoint's own bfloat16 values in float32 arithmetic: what FP8 is measured against
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.request import Emission, GenerationRequest
from nvlm_trt.mini.views import FULL, shown_config, shown_ids
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.serving.parameters import RequestFields
from nvlm_trt.serving.preprocess import Preprocessor
from nvlm_trt.vision.registry import load_engine

__all__ = ["Asked", "Decode", "Reader", "embedded_decoder", "plain_decoder"]

_AT_ONCE = 16
_MAX_TOKENS = 40
_MAX_SEQ_LEN = 512


@dataclass(frozen=True, slots=True)
class Asked:
    png: bytes
    question: str


# Token ids and rows of the pictures, to the ids of the answer when they are asked for.
Decode = Callable[[NDArray[np.int32], NDArray[np.float32]], Callable[[], Sequence[int]]]


class Reader:
    """Greedy answers; the vision half is a deployment's, on ONNX Runtime."""

    def __init__(self, deployment: Path, threads: int | None = None) -> None:
        self.preprocessor = Preprocessor.from_folder(deployment / "model", max_images=1, max_seq_len=_MAX_SEQ_LEN)
        most = self.preprocessor.config.tiling.most_tiles_per_image
        checkpoint = open_deployment(deployment).checkpoint
        self._vision = load_engine("onnxruntime", deployment / "vision", checkpoint, most, threads=threads)

    def answers(self, asked: Sequence[Asked], decode: Decode, view: str = FULL) -> list[str]:
        """Raises what the engines raise for pictures and questions they cannot take."""
        texts: list[str] = []
        for start in range(0, len(asked), _AT_ONCE):
            coming = [self._start(one, decode, view) for one in asked[start : start + _AT_ONCE]]
            texts += [self.preprocessor.tokenizer.decode_bytes(ids()).decode(errors="replace") for ids in coming]
        return texts

    def _start(self, asked: Asked, decode: Decode, view: str) -> Callable[[], Sequence[int]]:
        config, tokenizer = self.preprocessor.config, self.preprocessor.tokenizer
        preprocessor = Preprocessor(shown_config(view, config), tokenizer, max_images=1, max_seq_len=_MAX_SEQ_LEN)
        prepared = preprocessor.prepare(RequestFields(asked.question, _MAX_TOKENS, (asked.png,)))
        tiles = prepared.tiles
        ids = shown_ids(view, prepared.input_ids, len(tiles), config, tokenizer)
        rows = self._vision.encode(tiles)
        return decode(ids, rows.reshape(-1, rows.shape[-1]))


@contextlib.contextmanager
def embedded_decoder(deployment: Path, end_id: int, threads: int | None = None) -> Iterator[Decode]:
    engine = EmbeddedEngine(
        deployment / "decoder" / "checkpoint",
        max_batch_size=_AT_ONCE,
        max_seq_len=_MAX_SEQ_LEN,
        max_num_tokens=2048,
        threads=threads,
    )

    def decode(ids: NDArray[np.int32], rows: NDArray[np.float32]) -> Callable[[], Sequence[int]]:
        answer: list[int] = []
        ended = threading.Event()

        def listen(emission: Emission) -> None:
            answer.extend(emission.tokens)
            if emission.finish is not None:
                ended.set()

        engine.submit(GenerationRequest("", ids, _MAX_TOKENS, prompt_table=rows, end_id=end_id), listen)

        def whole() -> list[int]:
            ended.wait()
            return answer

        return whole

    try:
        yield decode
    finally:
        engine.close()


def plain_decoder(checkpoint: Checkpoint, end_id: int) -> Decode:
    """A decoder without a cache: each token runs the whole sequence again, which a model of this size can afford."""
    import torch

    from nvlm_trt.mini.export import load

    model = load(checkpoint)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def answer(ids: NDArray[np.int32], rows: NDArray[np.float32]) -> list[int]:
        sequence, picture = torch.from_numpy(ids).long(), torch.from_numpy(rows)[None]
        while len(sequence) < len(ids) + _MAX_TOKENS:
            token = model.logits(sequence[None], picture, 1)[0].argmax(-1)
            if int(token) == end_id:
                break
            sequence = torch.cat([sequence, token])
        return [int(token) for token in sequence[len(ids) :]]

    return lambda ids, rows: functools.partial(answer, ids, rows)
