"""Calibration samples: a set of prompts and pictures as the rows the decoder would read.

Text alone understates what pictures do to the first layers, so a set should hold both. Prompts go the way of real
requests: the preprocessor cuts, tags and tokenises, and the vision engine makes the pictures' rows.

Every prompt is prepared once at the start, so that a bad one shows before the long work; only its token ids are kept.
Rows are made when they are asked for. The vision half runs in stages, one layer's weights at a time, for the pictures
of as many prompts as one pass may hold: the whole tower in float32 is 25 GB, and this has to fit a laptop's RAM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt import __version__
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.calibration_set import CalibrationPrompt, read_set, refused, shipped_set
from nvlm_trt.errors import RequestError
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.serving.parameters import RequestFields
from nvlm_trt.serving.preprocess import Prepared, Preprocessor
from nvlm_trt.vision.stages import encode_in_stages

__all__ = ["PromptSamples", "build_samples"]

_EMBEDDING = "language_model.model.embed_tokens.weight"
# Tiles in one pass over the vision weights; two of their hidden states are held, 0.84 GB in the release's size.
_TILES_PER_PASS = 32

Floats = NDArray[np.float32]


def build_samples(
    checkpoint: Checkpoint,
    vision_folder: Path,
    recipe: Recipe,
    set_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PromptSamples:
    """The decoder's input rows for each prompt of a set, the shipped one unless given, in the file's order.

    The recipe gives the prompt's style and system text; its limits do not apply, because what is calibrated must not
    depend on how large a server is. Pictures run on ONNX Runtime, from the exported graph in ``vision_folder``.
    ``progress`` counts samples whose rows have been made.

    Raises ``UsageError`` E-USAGE-CALIBRATION for a set that cannot be read or a prompt the model cannot take.
    """
    file = set_file or shipped_set()
    prompts = read_set(file)
    preprocessor = Preprocessor(
        checkpoint.config,
        NvlmTokenizer.from_folder(checkpoint.root),
        style=PromptStyle(recipe.prompt.style),
        system=recipe.prompt.system,
        max_images=max(len(prompt.images) for prompt in prompts),
        max_seq_len=checkpoint.config.decoder.max_positions,
    )
    return PromptSamples(checkpoint, vision_folder, preprocessor, file, prompts, progress)


class PromptSamples:
    """``Samples``: float32 [tokens, hidden] for each prompt."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        vision_folder: Path,
        preprocessor: Preprocessor,
        file: Path,
        prompts: Sequence[CalibrationPrompt],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._vision_folder = vision_folder
        self._preprocessor = preprocessor
        self._file = file
        self._prompts = prompts
        self._progress = progress
        self._picture_rows: dict[tuple[Path, ...], Floats] = {}
        self._ids: list[NDArray[np.int32]] = []
        digest = hashlib.sha256(self._vision_identity().encode())
        for prompt in prompts:
            prepared = self._prepare(prompt)
            self._ids.append(prepared.input_ids)
            for part in (prepared.input_ids, prepared.tiles):
                digest.update(f"{part.dtype.str}{part.shape}".encode())
                digest.update(part.data)
        self._key = digest.hexdigest()

    @property
    def lengths(self) -> Sequence[int]:
        return [len(ids) for ids in self._ids]

    def key(self) -> str:
        """A hash of token ids, tiles and the vision graph; the weights are the checkpoint's."""
        return self._key

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Floats:
        """Embedding rows of ordinary ids; of virtual ones, from the vocabulary's size up, the pictures' rows."""
        ids = self._ids[index]  # an IndexError ends an iteration
        embedding: NDArray[Any] = self._checkpoint.read(_EMBEDDING)
        virtual = ids >= len(embedding)
        rows = np.empty((len(ids), embedding.shape[1]), np.float32)
        rows[~virtual] = embedding[ids[~virtual]].astype(np.float32)
        if virtual.any():
            rows[virtual] = self._rows_of_pictures(index)[ids[virtual] - len(embedding)]
        if self._progress:
            self._progress(index + 1, len(self))
        return rows

    def release(self) -> None:
        self._picture_rows = {}
        self._checkpoint.drop_pages(_EMBEDDING)

    def _prepare(self, prompt: CalibrationPrompt) -> Prepared:
        images = tuple(path.read_bytes() for path in prompt.images)
        try:
            return self._preprocessor.prepare(RequestFields(text_input=prompt.prompt, max_tokens=1, images=images))
        except RequestError as error:
            raise refused(self._file, prompt.line, f"cannot be asked: {error.what.rstrip('.')}") from None

    def _rows_of_pictures(self, index: int) -> Floats:
        pictures = self._prompts[index].images
        if pictures not in self._picture_rows:
            self._picture_rows = self._encode_from(index)
        return self._picture_rows[pictures]

    def _encode_from(self, index: int) -> dict[tuple[Path, ...], Floats]:
        """One pass of the vision half, for a prompt's pictures and for those of later prompts while there is room."""
        tiles: dict[tuple[Path, ...], NDArray[np.uint8]] = {}
        room = _TILES_PER_PASS
        for prompt in self._prompts[index:]:
            if prompt.images and prompt.images not in tiles:
                cut = self._prepare(prompt).tiles
                room -= len(cut)
                if room < 0 and tiles:
                    break
                tiles[prompt.images] = cut
        rows = encode_in_stages(self._vision_folder, self._checkpoint.root, np.concatenate(list(tiles.values())))
        ends = np.cumsum([len(cut) for cut in tiles.values()])[:-1]
        parts = (part.reshape(-1, part.shape[-1]) for part in np.split(rows, ends))
        return dict(zip(tiles, parts, strict=True))

    def _vision_identity(self) -> str:
        graph, weights = (self._vision_folder / name for name in ("vision.onnx", "weights.json"))
        parts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (graph, weights) if file.is_file()]
        return json.dumps([__version__, *parts])
