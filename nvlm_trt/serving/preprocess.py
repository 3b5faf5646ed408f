"""The only way to the model: from a checked request to everything the engines read.

A picture is decoded, cut and dropped before the next, so a request costs the memory of its tiles and one picture. Equal
pictures get equal ``extra_ids``, by which the decoder shares their keys and values between requests; text has 0 there.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.request import Sampling
from nvlm_trt.errors import CheckpointError, RequestError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.jpeg import JpegDecoder
from nvlm_trt.model.json_file import read_json_object
from nvlm_trt.model.picture import PictureLimits, decode_pixels
from nvlm_trt.model.pixels import picture_size
from nvlm_trt.model.prompt import DEFAULT_SYSTEM, Prompt, PromptStyle, build_prompt
from nvlm_trt.model.resample import Resample, pillow_resample
from nvlm_trt.model.tiling import Grid, choose_grid, cut_tiles
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.serving.parameters import RequestFields, check_image_count
from nvlm_trt.serving.word_list import WordIds

__all__ = ["Prepared", "Preprocessor"]

# A question of this many bytes for each token that fits is refused unread: no language comes near it.
_BYTES_PER_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the engines read, every parameter explicit.

    ``input_ids`` int32 [n]; ``extra_ids`` uint64 [n], a content hash at image rows and 0 at text; ``tiles`` uint8
    [tiles, S, S, 3], all pictures one after another, zero tiles for text alone; ``image_sizes`` (width, height) in
    pixels as sent; ``end_id`` -1 never ends; ``request_key`` is unique and not the client's to choose.
    """

    input_ids: NDArray[np.int32]
    extra_ids: NDArray[np.uint64]
    tiles: NDArray[np.uint8]
    image_sizes: tuple[tuple[int, int], ...]
    grids: tuple[Grid, ...]
    max_tokens: int
    min_tokens: int
    end_id: int
    pad_id: int
    stop_words: WordIds
    bad_words: WordIds
    sampling: Sampling
    stream: bool
    return_log_probs: bool
    request_key: int

    def facts(self) -> dict[str, int]:
        """The facts for the log and the trace."""
        return {"pictures": len(self.grids), "tiles": len(self.tiles), "prompt_tokens": self.input_ids.size}


class Preprocessor:
    """Immutable except for the counter of its keys; safe to share between threads."""

    def __init__(
        self,
        config: NvlmConfig,
        tokenizer: NvlmTokenizer,
        *,
        style: PromptStyle = PromptStyle.HF,
        system: str | None = DEFAULT_SYSTEM,
        max_images: int,
        max_seq_len: int,
        picture_limits: PictureLimits | None = None,
        resample: Resample = pillow_resample,
        quick_jpeg: JpegDecoder | None = None,
    ) -> None:
        """Raises ``CheckpointError``: E-TOKENIZER-VOCAB, E-CONFIG-VALUE for a checkpoint no prompt can be made for."""
        if tokenizer.vocab_len > config.decoder.vocab_size:
            raise CheckpointError(
                "E-TOKENIZER-VOCAB",
                f"The tokenizer has ids up to {tokenizer.vocab_len - 1}, the decoder {config.decoder.vocab_size} rows.",
                "Take the tokenizer's files from the checkpoint's own release.",
            )
        if not config.tiling.use_thumbnail:
            raise CheckpointError(
                "E-CONFIG-VALUE",
                "config.json: use_thumbnail is off; NVLM-D's prompt names the last tile as the thumbnail.",
                "Check that the file is the release's own.",
            )
        self.config = config
        self.tokenizer = tokenizer
        self.max_images = max_images
        self.max_seq_len = max_seq_len
        self.picture_limits = picture_limits or PictureLimits()
        self._resample = resample
        self._quick_jpeg = quick_jpeg
        self._style = style
        self._system = system
        self._keys = _request_keys()

    @classmethod
    def from_folder(
        cls,
        model_folder: Path,
        *,
        style: PromptStyle = PromptStyle.HF,
        system: str | None = DEFAULT_SYSTEM,
        max_images: int,
        max_seq_len: int,
        max_tiles: int | None = None,
        picture_limits: PictureLimits | None = None,
        resample: Resample = pillow_resample,
        quick_jpeg: JpegDecoder | None = None,
    ) -> Preprocessor:
        """Read ``config.json`` and the tokenizer's files in ``model_folder``; ``max_tiles`` bounds the config's.

        Raises ``CheckpointError``: those of the config, of the tokenizer and of the constructor.
        """
        return cls(
            NvlmConfig.from_json(read_json_object(model_folder / "config.json", "CONFIG")).limited(max_tiles),
            NvlmTokenizer.from_folder(model_folder),
            style=style,
            system=system,
            max_images=max_images,
            max_seq_len=max_seq_len,
            picture_limits=picture_limits,
            resample=resample,
            quick_jpeg=quick_jpeg,
        )

    def prepare_client(self, values: Mapping[str, Any]) -> Prepared:
        """``prepare`` for values as a client sent them; raises what ``RequestFields.from_client`` does, too."""
        return self.prepare(
            RequestFields.from_client(values, max_images=self.max_images, picture_limits=self.picture_limits)
        )

    def prepare(self, fields: RequestFields) -> Prepared:
        """Raises ``RequestError``: E-IMAGE-*, E-PROMPT-*, and E-PARAM-RANGE for an id the decoder does not have."""
        check_image_count(len(fields.images), self.max_images)
        talk = fields.conversation
        self._check_text(len(fields.text_input.encode()) if talk is None else talk.num_bytes)
        end_id = self._known_id("end_id", fields.end_id, self.tokenizer.eos_id)
        pad_id = self._known_id("pad_id", fields.pad_id, self.tokenizer.pad_id)
        limits = self.picture_limits
        if talk is not None and talk.max_pixels is not None:
            limits = replace(limits, max_pixels=min(talk.max_pixels, limits.max_pixels))
        tilings = [
            self.config.tiling.limited(most)
            for most in (talk.max_tiles if talk is not None else [None] * len(fields.images))
        ]
        size = self.config.tiling.tile_size
        tiles: list[NDArray[np.uint8]] = [np.empty((0, size, size, 3), np.uint8)]
        sizes: list[tuple[int, int]] = []
        for number, (data, tiling) in enumerate(zip(fields.images, tilings, strict=True), 1):
            pixels = decode_pixels(data, limits, f"Picture {number}", self._quick_jpeg)
            sizes.append(picture_size(pixels))
            tiles.append(cut_tiles(pixels, tiling, self._resample))
        prompt = build_prompt(
            fields.text_input if talk is None else talk.turns,
            [len(cut) for cut in tiles[1:]],
            tokenizer=self.tokenizer,
            style=self._style,
            system=self._system,
            tokens_per_tile=self.config.vision.tokens_per_tile,
            vocab_size=self.config.decoder.vocab_size,
        )
        max_tokens = fields.max_tokens
        if talk is not None and talk.fit:
            max_tokens = max(1, min(max_tokens, self.max_seq_len - prompt.num_tokens))
        self._check_length(prompt, max_tokens)
        return Prepared(
            input_ids=prompt.input_ids,
            extra_ids=_extra_ids(prompt, tiles[1:]),
            tiles=np.concatenate(tiles),
            image_sizes=tuple(sizes),
            grids=tuple(choose_grid(*size, tiling) for size, tiling in zip(sizes, tilings, strict=True)),
            max_tokens=max_tokens,
            min_tokens=min(fields.min_tokens, max_tokens),
            end_id=end_id,
            pad_id=pad_id,
            stop_words=self._word_ids(fields.stop_words),
            bad_words=self._word_ids(fields.bad_words),
            sampling=fields.sampling,
            stream=fields.stream,
            return_log_probs=fields.return_log_probs,
            request_key=next(self._keys),
        )

    def _word_ids(self, words: Sequence[str]) -> WordIds:
        """Each word as it is tokenised alone.

        " stop" and "stop" are different tokens, and only the one sent is looked for, as in TensorRT-LLM's own
        preprocessing; a client that wants both sends both.
        """
        return tuple(tuple(self.tokenizer.encode_text(word)) for word in words)

    def _known_id(self, name: str, id: int | None, default: int) -> int:
        if id is None:
            return default
        if id >= self.config.decoder.vocab_size:
            raise RequestError(
                "E-PARAM-RANGE",
                f"{name} is {id}; the decoder's last token is {self.config.decoder.vocab_size - 1}.",
                "Leave it out to use the model's own.",
            )
        return id

    def _check_text(self, size: int) -> None:
        limit = _BYTES_PER_TOKEN * self.max_seq_len
        if size > limit:
            raise RequestError(
                "E-PROMPT-LENGTH",
                f"The question has {size:,} bytes; at most {limit:,} are read for a sequence of "
                f"{self.max_seq_len:,} tokens.",
                "Ask shorter.",
            )

    def _check_length(self, prompt: Prompt, max_tokens: int) -> None:
        if prompt.num_tokens + max_tokens > self.max_seq_len:
            raise RequestError(
                "E-PROMPT-LENGTH",
                f"The prompt has {prompt.num_tokens:,} tokens, {prompt.num_image_rows:,} of them for pictures; with "
                f"{max_tokens:,} for the answer that is more than the {self.max_seq_len:,} that are allowed.",
                "Ask for fewer tokens, send fewer pictures or ask shorter.",
            )


def _extra_ids(prompt: Prompt, tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint64]:
    # The last entry is the one that -1, text, picks. A hash of 0 would read as text.
    by_image = np.array([*map(_content_hash, tiles), 0], np.uint64)
    return by_image[prompt.image_of_position]


def _content_hash(tiles: NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(tiles.data, digest_size=8).digest(), "little") or 1


def _request_keys() -> Iterator[int]:
    """Unique 63-bit keys, never 0: the upper half tells processes apart, the lower counts."""
    process = int.from_bytes(os.urandom(4), "little") >> 1
    return itertools.count((process << 32) + 1)
