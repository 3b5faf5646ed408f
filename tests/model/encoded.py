"""A pattern, encoded as each kind of picture."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nvlm_trt.errors import RequestError
from nvlm_trt.model.picture import PictureLimits, decode_picture

__all__ = ["ENCODED", "KINDS", "code_of", "encoded", "pattern"]

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def pattern(mode: str = "RGB") -> Image.Image:
    x, y = np.meshgrid(np.arange(50), np.arange(37))
    channels = [(7 * x + 3 * y) % 256, (x * x + 5 * y) % 256, ((x ^ y) * 11) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def code_of(data: bytes, **limits: int) -> str:
    with pytest.raises(RequestError) as caught:
        decode_picture(data, PictureLimits(**limits))
    return caught.value.code


ENCODED = {kind: encoded(pattern(), kind) for kind in KINDS}
