"""The quick JPEG decoder against Pillow, which is the oracle: the same pixels and the same refusals, or none of it."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from nvlm_trt.errors import RequestError
from nvlm_trt.model import jpeg as jpeg_module
from nvlm_trt.model.jpeg import fastest_jpeg, quick_jpeg
from nvlm_trt.model.picture import PictureLimits, decode_picture, decode_pixels

SUBSAMPLINGS = st.sampled_from(["4:4:4", "4:2:2", "4:2:0"])
LIMITS = PictureLimits(max_pixels=1_000_000)


def jpeg(width: int, height: int, seed: int = 0, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((width, height)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def quickly(data: bytes):
    """The quick decoder's pixels, or None where it leaves the picture to Pillow."""
    return quick_jpeg(data, JpegImageFile(BytesIO(data)))


def outcome(data: bytes, quick) -> tuple[str, bytes]:
    try:
        return "pixels", np.asarray(decode_pixels(data, LIMITS, quick_jpeg=quick)).tobytes()
    except RequestError as error:
        return error.code, b""


@given(
    st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(1, 100), SUBSAMPLINGS,
    st.booleans(), st.integers(0, 9),
)  # fmt: skip
@settings(deadline=None)
def test_ordinary_pictures_are_decoded_to_the_bits_of_pillow(w, h, seed, quality, subsampling, progressive, restart):
    data = jpeg(
        w, h, seed, quality=quality, subsampling=subsampling, progressive=progressive, restart_marker_blocks=restart
    )
    np.testing.assert_array_equal(quickly(data), np.asarray(decode_picture(data)))


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 4), st.booleans())
@settings(deadline=None, max_examples=300)
def test_damage_has_the_outcome_that_pillow_gives_it(seed, progressive, num_spoiled, cut):
    rng = random.Random(seed)
    data = bytearray(jpeg(rng.randint(1, 90), rng.randint(1, 90), seed, progressive=progressive))
    for _ in range(num_spoiled):
        data[rng.randrange(3, len(data))] = rng.randrange(256)
    whole = bytes(data[: rng.randint(4, len(data))] if cut else data)
    assert outcome(whole, quick_jpeg) == outcome(whole, None)


@pytest.mark.parametrize("options", [{"mode": "L"}, {"mode": "CMYK"}])
def test_other_modes_are_left_to_pillow(options):
    data = jpeg(50, 37, **options)
    assert quickly(data) is None
    assert decode_pixels(data, quick_jpeg=quick_jpeg).size == (50, 37)


def test_rgb_that_was_never_turned_into_luminance():
    data = jpeg(50, 37, keep_rgb=True, subsampling="4:4:4")
    np.testing.assert_array_equal(quickly(data), np.asarray(decode_picture(data)))


def test_metadata_and_orientation_are_stepped_over():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(50, 37, exif=exif, comment=b"\xff\xd8\xff\xc0\x00\x11\x08\x75\x30\x75\x30")
    assert quickly(data).shape == (37, 50, 3)
    np.testing.assert_array_equal(quickly(data), np.asarray(decode_picture(data)))


def test_a_size_other_than_the_one_that_was_checked_is_not_decoded():
    header = JpegImageFile(BytesIO(jpeg(50, 37)))
    assert quick_jpeg(jpeg(51, 37), header) is None
    assert quick_jpeg(jpeg(5000, 5000, quality=1), header) is None


def test_limits_are_checked_first():
    asked = []

    def never(data, header):
        asked.append(data)

    with pytest.raises(RequestError, match="E-IMAGE-PIXELS"):
        decode_pixels(jpeg(50, 37), PictureLimits(max_pixels=50), quick_jpeg=never)
    assert decode_pixels(jpeg(50, 37), quick_jpeg=never).size == (50, 37)
    assert len(asked) == 1


def test_it_is_used_where_it_is_installed_and_agrees(monkeypatch, caplog):
    assert fastest_jpeg() is quick_jpeg
    assert not caplog.records
    monkeypatch.setattr(jpeg_module, "quick_jpeg", lambda data, header: quickly(data) ^ 1)
    assert fastest_jpeg() is None
    assert "Pillow is used" in caplog.text
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fastest_jpeg() is None


def test_importing_loads_no_second_decoder():
    code = "import sys, nvlm_trt.model.picture; sys.exit('simplejpeg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
