"""The decoder of one precision: its checkpoint, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.embedded.engine import EmbeddedEngine, open_decoder
from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.pipeline.recipe import DecoderRecipe

__all__ = ["StudiedDecoder"]


@dataclass(frozen=True, slots=True)
class StudiedDecoder:
    """``folder`` holds the checkpoint; ``threads`` None means all cores. Both ways to open it raise what
    ``EmbeddedEngine`` does.
    """

    folder: Path
    recipe: DecoderRecipe
    threads: int | None

    @property
    def limits(self) -> Limits:
        return Limits(self.recipe.max_batch_size, self.recipe.max_num_tokens)

    def open_engine(self) -> EmbeddedEngine:
        return EmbeddedEngine(
            self.folder,
            runner=self.recipe.runner,
            max_batch_size=self.recipe.max_batch_size,
            max_seq_len=self.recipe.max_seq_len,
            max_num_tokens=self.recipe.max_num_tokens,
            quantize_activations=self.recipe.quantize_activations,
            threads=self.threads,
        )

    def open_pool(self) -> Pool:
        """The model alone, without the engine."""
        return open_decoder(
            self.folder,
            self.limits,
            runner=self.recipe.runner,
            max_seq_len=self.recipe.max_seq_len,
            quantize_activations=self.recipe.quantize_activations,
            threads=self.threads,
        )
