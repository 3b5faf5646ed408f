"""What clients may send as a picture. Pictures are made here, from one small pattern, in every kind that is read."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nvlm_trt.errors import RequestError
from nvlm_trt.model.picture import PictureLimits, decode_picture
from tests.model.encoded import ENCODED, KINDS, code_of, encoded, pattern

GREY16 = (np.arange(37 * 50, dtype=np.uint32) * 35).astype(np.uint16).reshape(37, 50)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_pillow_reads_it(kind):
    image = decode_picture(ENCODED[kind])
    assert (image.mode, image.size) == ("RGB", (50, 37))
    with Image.open(BytesIO(ENCODED[kind])) as reference:
        assert image.tobytes() == reference.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("P", "PNG"), ("P", "GIF"), ("L", "PNG"), ("L", "JPEG"), ("1", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"),
        ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("1", "TIFF"), ("LAB", "TIFF"), ("RGBA", "WEBP"), ("RGBA", "TIFF"),
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb_as_in_the_release(mode, kind):
    image = pattern("RGB").convert("P") if mode == "P" else _as(mode)
    data = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    got = decode_picture(data)
    with Image.open(BytesIO(data)) as reference:
        assert got.tobytes() == reference.convert("RGB").tobytes()
    assert got.mode == "RGB"


def _as(mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.frombytes("LAB", (50, 37), pattern().tobytes())
    return pattern().convert(mode)


def test_alpha_is_dropped_not_blended():
    image = pattern("RGBA")
    image.putalpha(0)
    assert decode_picture(encoded(image, "PNG")).tobytes() == pattern().tobytes()


def test_transparency_by_palette_entry_is_dropped_without_a_warning():
    image = pattern().quantize(16)
    data = encoded(image, "PNG", transparency=bytes(range(16)))
    assert decode_picture(data).tobytes() == image.convert("RGB").tobytes()


def test_sixteen_bit_greys_keep_their_upper_eight_bits():
    expected = np.repeat((GREY16 >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for data in (
        encoded(Image.fromarray(GREY16), "PNG"),
        encoded(Image.fromarray(GREY16), "TIFF"),
        encoded(Image.frombytes("I;16B", (50, 37), GREY16.astype(">u2").tobytes()), "TIFF"),
        _png(50, 37, depth=16, colour=0, rows=GREY16.astype(">u2").tobytes()),
    ):
        assert np.array_equal(np.asarray(decode_picture(data)), expected)


def test_sixteen_bit_colours_are_read_like_sixteen_bit_greys():
    rows = np.repeat(GREY16[..., None], 3, axis=2).astype(">u2").tobytes()
    colour = decode_picture(_png(50, 37, depth=16, colour=2, rows=rows))
    assert colour.tobytes() == decode_picture(encoded(Image.fromarray(GREY16), "PNG")).tobytes()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bit_greys_are_refused(mode):
    assert code_of(encoded(pattern("L").convert(mode), "TIFF")) == "E-IMAGE-DEPTH"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(kind):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(first, kind, save_all=True, append_images=[second, first])
    red, _, blue = np.asarray(decode_picture(data))[3, 3]
    assert red > 240
    assert blue < 15


def test_the_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(encoded(pattern(), "JPEG", exif=exif)).size == (50, 37)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 200), (200, 1)])
def test_extreme_shapes_are_read(width, height):
    assert decode_picture(encoded(Image.new("RGB", (width, height)), "PNG")).size == (width, height)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"hello",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x7fELF",
        b"RIFF\0\0\0\0WAVE",
    ],
)
def test_what_is_not_a_picture(data):
    assert code_of(data) == "E-IMAGE-FORMAT"


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000"])
def test_kinds_that_are_not_read(kind):
    assert code_of(encoded(pattern(), kind)) == "E-IMAGE-FORMAT"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_a_file_cut_short(kind, part):
    data = encoded(pattern().resize((400, 300)), kind)
    assert code_of(data[: max(16, int(len(data) * part))]) == "E-IMAGE-TRUNCATED"


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_files_are_read_or_answered_and_never_warn_of_bombs(kind, data):
    spoiled = bytearray(ENCODED[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(spoiled)))
    code = None
    try:
        mode = decode_picture(bytes(spoiled[:cut]), PictureLimits(max_pixels=10_000_000)).mode
    except RequestError as error:
        code = error.code
    assert code in (None, "E-IMAGE-FORMAT", "E-IMAGE-PIXELS", "E-IMAGE-TRUNCATED", "E-IMAGE-DEPTH")
    assert code or mode == "RGB"


def test_a_bomb_is_refused_by_its_header():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # No pixels follow: whoever tried to decode them would say that the file is cut short.
        assert code_of(_png(50_000, 50_000, depth=8, colour=2, rows=b"")) == "E-IMAGE-PIXELS"
        assert code_of(_png(10_000, 10_000, depth=8, colour=2, rows=b"")) == "E-IMAGE-PIXELS"
        assert code_of(_png(1, 2**31 - 1, depth=1, colour=0, rows=b"")) == "E-IMAGE-PIXELS"


def test_a_long_thin_picture_is_refused_for_what_its_resize_would_cost():
    assert code_of(_png(1, 65_536, depth=1, colour=0, rows=b"")) == "E-IMAGE-PIXELS"


@pytest.mark.parametrize("frame", [60_000, 10_000])
def test_a_gif_frame_beyond_its_screen_is_a_bomb_too(frame):
    data = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    at = data.index(b",\0\0\0\0\4\0\4\0")
    data[at + 5 : at + 9] = struct.pack("<HH", frame, frame)
    assert code_of(bytes(data)) == "E-IMAGE-PIXELS"


def test_limits():
    data = ENCODED["PNG"]
    assert code_of(data, max_bytes=len(data) - 1) == "E-IMAGE-BYTES"
    assert code_of(data, max_pixels=50 * 37 - 1) == "E-IMAGE-PIXELS"
    assert decode_picture(data, PictureLimits(max_bytes=len(data), max_pixels=50 * 37, max_side_px=50)).size == (50, 37)


def _of_many_scans(extra: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes, comes ``extra`` times more."""
    data = encoded(pattern(), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[data.rindex(b"\xff\xda") : end] * extra + data[end:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    assert decode_picture(_of_many_scans(80)).size == (50, 37)
    assert code_of(_of_many_scans(101)) == "E-IMAGE-SCANS"
    assert code_of(_of_many_scans(5), max_scans=5) == "E-IMAGE-SCANS"


def test_scans_cannot_hide_behind_a_marker_without_a_length():
    data = _of_many_scans(101)
    between = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    assert code_of(data[:between] + b"\xff\x01\x7f\xff" + data[between:]) == "E-IMAGE-SCANS"


def test_scans_in_metadata_and_behind_the_end_do_not_count():
    """Neither a preview in the metadata nor what some cameras append, here as if each were full of scans."""
    scans = b"\xff\xda\x00\x02" * 5000
    data = ENCODED["JPEG"]
    metadata = b"\xff\xe1" + struct.pack(">H", len(scans) + 2) + scans
    assert decode_picture(data[:2] + metadata + data[2:] + scans).tobytes() == decode_picture(data).tobytes()


def test_pillow_is_left_as_it_was():
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    code_of(_png(50_000, 50_000, depth=8, colour=2, rows=b""))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_an_error_names_the_picture():
    with pytest.raises(RequestError, match=r"E-IMAGE-FORMAT: Picture 3 begins with 68 65 6c 6c: not a picture\."):
        decode_picture(b"hello", name="Picture 3")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF picture"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    ],
)
def test_what_people_take_for_such_a_picture_is_named(data, kind):
    with pytest.raises(RequestError, match=f"E-IMAGE-FORMAT: .*{kind}"):
        decode_picture(data)


def _png(width: int, height: int, *, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG whose header says what it likes; ``colour`` 0 is grey, 2 RGB."""
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height)) if rows else b""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_tiffs_own_orientation_is_applied_while_it_is_decoded():
    image = decode_picture(encoded(pattern(), "TIFF", tiffinfo={274: 6}))
    assert image.tobytes() == pattern().transpose(Image.Transpose.ROTATE_270).tobytes()


def test_twelve_bit_greys_keep_their_upper_eight_bits():
    packed = bytes([0x12, 0x3F, 0xFF, 0x00, 0x0A, 0xBC])
    rows = decode_picture(_tiff_of_12_bits(4, 1, packed))
    assert np.asarray(rows)[0, :, 0].tolist() == [0x12, 0xFF, 0x00, 0xAB]


def _tiff_of_12_bits(width: int, height: int, packed: bytes) -> bytes:
    tags = [
        (256, width),
        (257, height),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(packed))
    return head + packed + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
