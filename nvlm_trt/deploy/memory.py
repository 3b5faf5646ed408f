"""How much of /dev/shm a deployment needs: tensors between the server and its Python models pass through it."""

from __future__ import annotations

from nvlm_trt.model.config import NvlmConfig

__all__ = ["shared_memory_bytes"]

# Measured with 13 tiles of 448: a model's region grows to 1.7 times what it received and sent.
_REGION_PER_TENSOR = 1.7
_REGION_AT_START_BYTES = 2**20
_NUM_PROCESSES = 4


def shared_memory_bytes(config: NvlmConfig, max_images: int) -> int:
    """Bytes for one request with ``max_images`` pictures of the most tiles; two at once may need twice as much.

    Tiles go from ``preprocessing`` to ``vision_encoder``, and rows from there to the decoder, in float32.
    """
    tiles = max_images * config.tiling.most_tiles_per_image
    tile_bytes = tiles * config.tiling.tile_size**2 * 3
    row_bytes = tiles * config.vision.tokens_per_tile * config.vision.output_size * 4
    return int(_REGION_PER_TENSOR * 2 * (tile_bytes + row_bytes)) + _NUM_PROCESSES * _REGION_AT_START_BYTES
