"""The compiled filter against Pillow's, which is the oracle: not one bit may differ."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nvlm_trt.model import resample as resample_module
from nvlm_trt.model.resample import fastest_resample, pillow_resample
from nvlm_trt.model.resample_kernel import CompiledResample
from nvlm_trt.model.taps import bicubic_taps, paired_taps

# Shrinking and stretching by large factors, single pixels, and sides on both edges of a strip of 16 rows.
SIDES = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 3, 15, 16, 17, 32, 33]))
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3)
CONTENTS = st.sampled_from(["noise", "edges", "white", "ramp"])


def picture(width: int, height: int, content: str, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    shape = (height, width, 3)
    if content == "noise":
        pixels = rng.integers(0, 256, shape)
    elif content == "edges":  # overshoots most, so that sums are cut at both ends
        pixels = rng.integers(0, 2, shape) * 255
    elif content == "white":
        pixels = np.full(shape, 255)
    else:
        pixels = np.arange(height * width * 3).reshape(shape) % 256
    return Image.fromarray(pixels.astype(np.uint8))


@given(st.integers(1, 9), st.integers(90, 110), SIDES, SIDES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_slivers_that_pillow_shrinks_vertically_first(kernel, width, ratio, wide, high, seed):
    image = picture(width, width * ratio + 1, "noise", seed)
    np.testing.assert_array_equal(kernel(image, [(wide, high)])[0], pillow_resample(image, [(wide, high)])[0])


@given(SIDES, SIDES, SIZES, CONTENTS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_the_kernel_gives_the_bits_of_pillow(kernel, width, height, sizes, content, seed):
    image = picture(width, height, content, seed)
    for seen, wanted in zip(kernel(image, sizes), pillow_resample(image, sizes), strict=True):
        np.testing.assert_array_equal(seen, wanted)


@given(SIDES, SIDES, SIZES, CONTENTS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_and_on_a_processor_that_cannot_multiply_pairs(plain_kernel, width, height, sizes, content, seed):
    image = picture(width, height, content, seed)
    for seen, wanted in zip(plain_kernel(image, sizes), pillow_resample(image, sizes), strict=True):
        np.testing.assert_array_equal(seen, wanted)


@given(SIDES, SIDES, SIZES, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_bytes_give_what_the_image_gives(kernel, width, height, sizes, seed):
    image = picture(width, height, "noise", seed)
    for resample in (kernel, pillow_resample):
        for seen, wanted in zip(resample(np.asarray(image), sizes), resample(image, sizes), strict=True):
            np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (65, 3001), (3001, 65)])
def test_extreme_shapes(kernel, size):
    image = picture(size[0], size[1], "noise", 1)
    for seen, wanted in zip(kernel(image, [(96, 448)]), pillow_resample(image, [(96, 448)]), strict=True):
        np.testing.assert_array_equal(seen, wanted)


@given(st.integers(1, 70_000), st.integers(1, 3000))
@settings(deadline=None)
def test_taps_lie_in_the_picture_and_no_sum_can_leave_32_bits(in_size, out_size):
    taps = bicubic_taps(in_size, out_size)
    assert (taps.first >= 0).all()
    assert (taps.count >= 1).all()
    assert (taps.first + taps.count <= in_size).all()
    assert 255 * np.abs(taps.weights.astype(np.int64)).sum(axis=1).max() + 2**21 < 2**31
    # Each tap is rounded, so a row may miss one by half a unit for each.
    assert (np.abs(taps.weights.sum(axis=1) - 2**22) <= taps.count).all()


@given(st.integers(1, 5000), st.integers(1, 1000))
@settings(deadline=None)
def test_pairs_and_halves_say_the_same_weights(in_size, out_size):
    taps, paired = bicubic_taps(in_size, out_size), paired_taps(in_size, out_size)
    assert (2 * (paired.first + paired.count) <= in_size + 1).all()
    low, high = np.moveaxis(paired.weights.astype(np.int64), 2, 0)
    for out in {0, out_size // 2, out_size - 1}:
        wanted = np.zeros(in_size + 2, np.int64)
        wanted[taps.first[out] : taps.first[out] + taps.count[out]] = taps.weights[out, : taps.count[out]]
        seen = np.zeros(in_size + 2, np.int64)
        begin, end = 2 * paired.first[out], 2 * (paired.first[out] + paired.count[out])
        seen[begin:end] = ((high[out] << 16) + low[out])[: paired.count[out]].ravel()
        np.testing.assert_array_equal(seen, wanted)


def test_the_fastest_is_compiled_where_there_is_a_compiler():
    assert isinstance(fastest_resample(), CompiledResample)


def test_without_a_compiler_it_is_pillow(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fastest_resample() is pillow_resample


def test_a_kernel_that_differs_in_one_bit_is_not_used(monkeypatch, kernel, caplog):
    def off_by_one(image, sizes):
        results = kernel(image, sizes)
        results[-1][-1, -1, -1] ^= 1
        return results

    assert resample_module._agrees(kernel)
    assert not resample_module._agrees(off_by_one)
    monkeypatch.setattr("nvlm_trt.model.resample_kernel.CompiledResample", lambda: off_by_one)
    assert fastest_resample() is pillow_resample
    assert "Pillow's is used" in caplog.text


def test_importing_loads_no_compiler():
    code = "import sys, nvlm_trt.model.resample_kernel, nvlm_trt.model.tiling; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
