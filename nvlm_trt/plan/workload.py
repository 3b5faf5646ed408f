"""How long a request is: pictures and text in, answer out, counted in decoder positions."""

from __future__ import annotations

from dataclasses import dataclass

from nvlm_trt.model.config import NvlmConfig

__all__ = ["Workload"]

# In front of a tile's rows stands its tag; "<Image>", "</Image>" and a line end stand around a picture.
_TAG_TOKENS = 5
_AROUND_TOKENS = 5


@dataclass(frozen=True, slots=True)
class Workload:
    """One request: ``pictures`` of the most tiles, ``text_tokens`` of prompt around them, ``answer_tokens``."""

    pictures: int
    text_tokens: int
    answer_tokens: int

    def num_tiles(self, config: NvlmConfig) -> int:
        return self.pictures * config.tiling.most_tiles_per_image

    def table_rows(self, config: NvlmConfig) -> int:
        return self.num_tiles(config) * config.vision.tokens_per_tile

    def prompt_tokens(self, config: NvlmConfig) -> int:
        tags = self.num_tiles(config) * _TAG_TOKENS + self.pictures * _AROUND_TOKENS
        return self.table_rows(config) + tags + self.text_tokens

    def total_tokens(self, config: NvlmConfig) -> int:
        """Positions it holds in the KV cache when the answer ends."""
        return self.prompt_tokens(config) + self.answer_tokens
