"""What the decoder is calibrated on: a file of prompts and pictures, turned into the rows the decoder would read.

Text alone understates what pictures do to the first layers, so a set should hold both. Prompts take the road of real
requests: the preprocessor cuts, tags and tokenises, the vision engine makes the pictures' rows.

The file has one JSON object a line: ``{"prompt": "...", "images": ["pictures/rocket.jpg"]}``. Pictures are named
relative to the file; ``images`` may be left out, blank lines are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import RequestError, UsageError
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.resources import resource_folder
from nvlm_trt.serving.parameters import RequestFields
from nvlm_trt.serving.preprocess import Prepared, Preprocessor
from nvlm_trt.vision.engine import VisionEngine
from nvlm_trt.vision.registry import load_engine

__all__ = ["CalibrationPrompt", "build_samples", "read_set", "shipped_set"]

_EMBEDDING = "language_model.model.embed_tokens.weight"
# One picture of the most tiles; more would only cost memory.
_TILES_PER_CALL = 7


@dataclass(frozen=True, slots=True)
class CalibrationPrompt:
    """One line of the file; ``images`` are files that exist."""

    line: int
    prompt: str
    images: tuple[Path, ...]


def shipped_set() -> Path:
    return resource_folder("calibration") / "set.jsonl"


def read_set(file: Path) -> list[CalibrationPrompt]:
    """Raises ``UsageError`` E-USAGE-CALIBRATION with the number of the line that cannot be meant."""
    try:
        # Not splitlines(): JSON texts may hold separators that only it takes for ends of lines.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            "E-USAGE-CALIBRATION", f"{file.name} cannot be read as UTF-8 text.", "Name a JSONL file."
        ) from None
    prompts = [_read_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UsageError("E-USAGE-CALIBRATION", f"{file.name} holds no prompts.", "Write one JSON object a line.")
    return prompts


def build_samples(
    checkpoint: Checkpoint, vision_folder: Path, recipe: Recipe, set_file: Path | None = None
) -> list[NDArray[np.float32]]:
    """The decoder's input rows for each prompt, float32 [tokens, hidden], in the file's order.

    The recipe gives the prompt's style and system text; its limits do not apply, because what is calibrated must not
    depend on how large a server is. Pictures run on ONNX Runtime, from the exported graph in ``vision_folder``.

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
    prepared = [_prepare(file, prompt, preprocessor) for prompt in prompts]
    tables = _encode_pictures(checkpoint, vision_folder, prompts, prepared)
    return [
        _rows(checkpoint, one.input_ids, tables[prompt.images]) for prompt, one in zip(prompts, prepared, strict=True)
    ]


def _read_line(file: Path, number: int, line: str) -> CalibrationPrompt:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str):
        raise _refused(file, number, 'is no JSON object with a text under "prompt"')
    unknown = sorted(data.keys() - {"prompt", "images"})
    if unknown:
        raise _refused(file, number, f"has the unknown key {unknown[0]!r}")
    images = data.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise _refused(file, number, 'has "images" that are no list of file names')
    paths = tuple(file.parent / image for image in images)
    for image, path in zip(images, paths, strict=True):
        if not path.is_file():
            raise _refused(file, number, f"names the picture {image}, which does not exist")
    return CalibrationPrompt(number, data["prompt"], paths)


def _prepare(file: Path, prompt: CalibrationPrompt, preprocessor: Preprocessor) -> Prepared:
    images = tuple(path.read_bytes() for path in prompt.images)
    try:
        return preprocessor.prepare(RequestFields(text_input=prompt.prompt, max_tokens=1, images=images))
    except RequestError as error:
        raise _refused(file, prompt.line, f"cannot be asked: {error.what.rstrip('.')}") from None


def _encode_pictures(
    checkpoint: Checkpoint, vision_folder: Path, prompts: Sequence[CalibrationPrompt], prepared: Sequence[Prepared]
) -> dict[tuple[Path, ...], NDArray[np.float32]]:
    """The prompt table of each distinct group of pictures; prompts about the same ones share it."""
    hidden_size = checkpoint.config.decoder.hidden_size
    tables: dict[tuple[Path, ...], NDArray[np.float32]] = {(): np.empty((0, hidden_size), np.float32)}
    tiles = {prompt.images: one.tiles for prompt, one in zip(prompts, prepared, strict=True) if prompt.images}
    if not tiles:
        return tables
    engine = load_engine("onnxruntime", vision_folder, checkpoint.root, _TILES_PER_CALL)
    try:
        return tables | {images: _encode(engine, cut) for images, cut in tiles.items()}
    finally:
        engine.close()


def _encode(engine: VisionEngine, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    calls = [engine.encode(tiles[start : start + engine.max_tiles]) for start in range(0, len(tiles), engine.max_tiles)]
    rows: NDArray[np.float32] = np.concatenate(calls).reshape(-1, engine.output_size)
    return rows


def _rows(checkpoint: Checkpoint, ids: NDArray[np.int32], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embedding rows of ordinary ids; of virtual ones, from the vocabulary's size up, rows of the table."""
    embedding: NDArray[Any] = checkpoint.read(_EMBEDDING)
    virtual = ids >= len(embedding)
    rows = np.empty((len(ids), embedding.shape[1]), np.float32)
    rows[~virtual] = embedding[ids[~virtual]].astype(np.float32)
    rows[virtual] = table[ids[virtual] - len(embedding)]
    return rows


def _refused(file: Path, number: int, why: str) -> UsageError:
    return UsageError("E-USAGE-CALIBRATION", f"{file.name}, line {number}: {why}.", "Correct the line.")
