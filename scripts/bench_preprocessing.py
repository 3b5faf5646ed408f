"""Decode and cut pictures: this project's path against the plain Pillow and numpy formulation, on one core.

The plain formulation is the one of the release's example code: decode, convert to RGB, resize to the grid, crop, resize
to the thumbnail, and for each tile float32, / 255, minus mean, / standard deviation, channels first; then stack. Ours
ends in uint8 tiles, because the rest is in the vision graph. Both start at the same bytes of a JPEG.

The run first checks that the compiled filter gives Pillow's bits for random sizes, that the quick decoder gives them
for random JPEGs, whole and damaged, and that our tiles, put through the plain formulation's arithmetic, are the plain
formulation's floats. Times are processor seconds of this process, so that a machine shared with others still says what
a core does.

    python scripts/bench_preprocessing.py [--repeats 9] [--random 200] [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from PIL.ImageFile import ImageFile

from nvlm_trt.errors import RequestError
from nvlm_trt.model.config import TilingConfig
from nvlm_trt.model.jpeg import JpegDecoder, fastest_jpeg
from nvlm_trt.model.picture import PictureLimits, decode_picture, decode_pixels
from nvlm_trt.model.resample import Resample, fastest_resample, pillow_resample
from nvlm_trt.model.tiling import choose_grid, cut_tiles
from scripts.facts import facts, show_facts

TILING = TilingConfig(tile_size=448, min_tiles=1, max_tiles=6, use_thumbnail=True)
PICTURES = {"1080p": (1920, 1080), "12 megapixels": (4000, 3000)}
QUALITY = 85
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began = time.perf_counter()
    fastest = fastest_resample()
    start_s = time.perf_counter() - began
    quick = fastest_jpeg()
    check_random_sizes(fastest, options.random)
    num_quick = check_random_jpegs(quick, options.random)
    report: dict[str, Any] = {
        "circumstances": facts(**{"libjpeg-turbo": str(features.version_feature("libjpeg_turbo"))}),
        "compiled": fastest is not pillow_resample,
        "compile_s": round(start_s, 2),
        "quick_jpeg": quick is not None,
        "equal_on_random_sizes": options.random,
        "equal_on_random_jpegs": {"quick": num_quick, "left_to_pillow": options.random - num_quick},
        "pictures": [measure(name, size, fastest, quick, options.repeats) for name, size in PICTURES.items()],
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    show_facts(report["circumstances"])
    print(f"compiled: {report['compiled']}, in {start_s:.1f} s; equal to Pillow on {options.random} random sizes")
    print(f"quick JPEG: {report['quick_jpeg']}; equal to Pillow on {options.random} random JPEGs, {num_quick} its own")
    print(
        f"{'':16}{'JPEG bytes':>12}{'tiles':>7}"
        + "".join(f"{name:>10}" for name in ("decode", "quick", "plain", "Pillow", "fast"))
        + f"{'ratio':>8}"
    )
    for row in report["pictures"]:
        print(
            f"{row['name']:16}{row['jpeg_bytes']:>12,}{row['tiles']:>7}"
            + "".join(
                f"{row[key]:>7.1f} ms" for key in ("decode_ms", "quick_decode_ms", "plain_ms", "pillow_ms", "fast_ms")
            )
            + f"{row['plain_ms'] / row['fast_ms']:>7.2f}x"
        )


def measure(
    name: str, size: tuple[int, int], fastest: Resample, quick: JpegDecoder | None, repeats: int
) -> dict[str, Any]:
    data = _jpeg(photograph(*size))
    paths: dict[str, Callable[[], Any]] = {
        "decode_ms": lambda: decode_picture(data),
        "quick_decode_ms": lambda: decode_pixels(data, quick_jpeg=quick),
        "plain_ms": lambda: plain(data),
        "pillow_ms": lambda: cut_tiles(decode_picture(data), TILING),
        "fast_ms": lambda: cut_tiles(decode_pixels(data, quick_jpeg=quick), TILING, fastest),
    }
    tiles = paths["fast_ms"]()
    wanted = paths["plain_ms"]()
    if not np.array_equal(np.stack([normalise(tile) for tile in tiles]), wanted):
        raise SystemExit(f"{name}: the tiles differ from the plain formulation's")
    times: dict[str, list[float]] = {key: [] for key in paths}
    for _ in range(repeats):  # in turn, so that a slow minute of the machine meets all of them
        for key, path in paths.items():
            began = time.process_time()
            path()
            times[key].append(1e3 * (time.process_time() - began))
    return {
        "name": name,
        "jpeg_bytes": len(data),
        "tiles": len(tiles),
        **{key: round(statistics.median(values), 2) for key, values in times.items()},
        "spread_ms": {key: [round(min(values), 2), round(max(values), 2)] for key, values in times.items()},
    }


def plain(data: bytes) -> NDArray[np.float32]:
    """The peer, as one writes it: float32 [tiles, 3, 448, 448]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    grid = choose_grid(image.width, image.height, TILING)
    size = TILING.tile_size
    stretched = image.resize((size * grid.cols, size * grid.rows), Image.Resampling.BICUBIC)
    boxes = [(size * col, size * row) for row in range(grid.rows) for col in range(grid.cols)]
    tiles = [stretched.crop((left, top, left + size, top + size)) for left, top in boxes]
    if grid.area != 1:
        tiles.append(image.resize((size, size), Image.Resampling.BICUBIC))
    return np.stack([normalise(np.asarray(tile.convert("RGB"))) for tile in tiles])


def normalise(tile: NDArray[np.uint8]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = ((tile.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    return result


def check_random_sizes(fastest: Resample, count: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(count):
        width, height, wide, high = (int(side) for side in np.exp(rng.uniform(0, np.log(900), 4)))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if not np.array_equal(fastest(image, [(wide, high)])[0], pillow_resample(image, [(wide, high)])[0]):
            raise SystemExit(f"{width}x{height} to {wide}x{high}: the filters differ")


def check_random_jpegs(quick: JpegDecoder | None, count: int) -> int:
    """How many of them the quick decoder took. Every second one is damaged in a few bytes or cut short."""
    rng, num_quick = random.Random(0), 0

    def counting(data: bytes, header: ImageFile) -> NDArray[np.uint8] | None:
        nonlocal num_quick
        pixels = quick(data, header) if quick else None
        num_quick += pixels is not None
        return pixels

    for number in range(count):
        data = _random_jpeg(rng)
        if number % 2:
            spoiled = bytearray(data[: rng.choice((len(data), rng.randrange(4, len(data))))])
            for _ in range(rng.randrange(4)):
                spoiled[rng.randrange(3, len(spoiled))] = rng.randrange(256)
            data = bytes(spoiled)
        if _outcome(data, counting) != _outcome(data, None):
            raise SystemExit(f"random JPEG {number}: the decoders differ")
    return num_quick


def _outcome(data: bytes, quick: JpegDecoder | None) -> bytes | str:
    try:
        return np.asarray(decode_pixels(data, PictureLimits(max_pixels=4_000_000), quick_jpeg=quick)).tobytes()
    except RequestError as error:
        return error.code


def _random_jpeg(rng: random.Random) -> bytes:
    width, height = (int(np.exp(rng.uniform(0, np.log(900)))) for _ in range(2))
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height)).convert(rng.choice(("RGB",) * 8 + ("L", "CMYK")))
    file = io.BytesIO()
    image.save(
        file,
        "JPEG",
        quality=rng.randint(1, 100),
        subsampling=rng.choice(("4:4:4", "4:2:2", "4:2:0")),
        progressive=rng.random() < 0.3,
        restart_marker_blocks=rng.choice((0, rng.randint(1, 40))),
    )
    return file.getvalue()


def photograph(width: int, height: int) -> Image.Image:
    """Noise of all scales, falling off as in photographs: what a JPEG of it costs to decode is what theirs costs."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    cells = 4
    while cells <= width:
        noise = rng.standard_normal((max(2, cells * height // width), cells, 3)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(noise[..., c]).resize((width, height), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        for channel, layer in enumerate(layers):
            total[..., channel] += (layers[0] + 0.3 * layer) / cells**0.6
        cells *= 2
    total *= 55 / total.std()
    return Image.fromarray(np.clip(total + 118, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
