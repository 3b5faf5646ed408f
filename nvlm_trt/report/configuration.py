"""What decides the answers of a deployment: two results belong together if their configurations are equal."""

from __future__ import annotations

from dataclasses import dataclass

from nvlm_trt.load.provenance import Deployed
from nvlm_trt.precision.result import PrecisionResult, StudiedModel
from nvlm_trt.precision.spec import DecoderPrecision

__all__ = ["Configuration", "deployed_configuration", "studied_configuration"]


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """``precision`` is the decoder's, as ``eval precisions`` names it; ``max_tiles`` bounds a picture's grid."""

    precision: str
    max_tiles: int
    tile_size: int
    vision_precision: str

    @property
    def name(self) -> str:
        """What ``--choose`` takes. The vision half is left out where it is the release's own."""
        vision = "" if self.vision_precision == "bfloat16" else f",vision={self.vision_precision}"
        return f"{self.precision},tiles={self.max_tiles}{vision}"


def deployed_configuration(deployed: Deployed) -> Configuration:
    precision = DecoderPrecision(
        "fp8" if deployed.decoder_precision == "fp8" else "none",
        "fp8" if deployed.kv_cache == "fp8" else "bf16",
        deployed.decoder_exclude,
    )
    return Configuration(precision.name, deployed.max_tiles, deployed.tile_size, deployed.vision_precision)


def studied_configuration(model: StudiedModel, result: PrecisionResult) -> Configuration:
    return Configuration(result.name, model.max_tiles, model.tile_size, model.vision_precision)
