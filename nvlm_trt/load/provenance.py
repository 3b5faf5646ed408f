"""Where a result comes from: the machine that measured, and the deployment that answered."""

from __future__ import annotations

from nvlm_trt.load.form import Form

__all__ = ["Circumstances", "Deployed"]


class Circumstances(Form):
    """Of the machine that measured; ``server`` is what answers, as it names itself."""

    date: str
    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    command: str
    server: str | None


class Deployed(Form):
    """What answers, from the deployment's manifest. ``max_tiles`` bounds one picture's grid, without its thumbnail."""

    manifest_sha256: str
    recipe: str
    decoder_engine: str
    decoder_precision: str
    kv_cache: str
    decoder_exclude: tuple[str, ...]
    vision_engine: str
    vision_precision: str
    max_tiles: int
    tile_size: int
    max_batch_size: int
