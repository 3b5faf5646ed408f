"""What a model is shown of a picture: all, or, to see what a part is good for, all but that part.

full            tiles, their tags, and the thumbnail
no tags         the rows of all tiles follow each other, without ``<tile_k>`` between them
thumbnail only  the picture is one tile, as a model without tiling would see it
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.prompt import tile_tags
from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["FULL", "NO_TAGS", "THUMBNAIL_ONLY", "VIEWS", "shown_config", "shown_ids"]

FULL, NO_TAGS, THUMBNAIL_ONLY = "full", "no tags", "thumbnail only"
VIEWS = (FULL, NO_TAGS, THUMBNAIL_ONLY)


def shown_config(view: str, config: NvlmConfig) -> NvlmConfig:
    """``config`` as it cuts pictures for ``view``."""
    return replace(config, tiling=replace(config.tiling, max_tiles=1)) if view == THUMBNAIL_ONLY else config


def shown_ids(
    view: str, ids: NDArray[np.int32], num_tiles: int, config: NvlmConfig, tokenizer: NvlmTokenizer
) -> NDArray[np.int32]:
    """The prompt of one picture of ``num_tiles``, int32 [n], as ``view`` has it.

    Without tags, what ``<Image>`` and the tags were tokenised to is replaced by ``<Image>`` alone.
    """
    if view != NO_TAGS:
        return ids
    rows = np.flatnonzero(ids >= config.decoder.vocab_size)
    opening = tokenizer.encode_text(f"user\n<Image>{tile_tags(num_tiles)[0]}")
    untagged = np.array(tokenizer.encode_text("user\n<Image>"), np.int32)
    return np.concatenate([ids[: rows[0] - len(opening)], untagged, ids[rows], ids[rows[-1] + 1 :]])
