"""Hostile and odd pictures, made here: a line each says what it tried."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from tests.attacks.attack import ANSWERED, Attack
from tests.attacks.doors import picture_uri

__all__ = ["ODD_FILES", "PICTURES", "good_picture_uri", "pattern"]


@cache
def pattern(width: int = 50, height: int = 37) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(7 * x + 3 * y) % 256, (x * x + 5 * y) % 256, ((x ^ y) * 11) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def good_picture_uri() -> str:
    return picture_uri(encoded(pattern(), "PNG"))


def png(width: int, height: int, rows: bytes = b"", depth: int = 1, *extra: tuple[bytes, bytes]) -> bytes:
    """A grey PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def sent(make: Callable[[], bytes], copies: int = 1) -> Callable[[], dict[str, list[str]]]:
    return lambda: {"image_url_input": [picture_uri(make())] * copies}


def uri(text: str) -> Callable[[], dict[str, list[str]]]:
    return lambda: {"image_url_input": [text]}


def _cut(kind: str) -> Callable[[], bytes]:
    def make() -> bytes:
        data = encoded(pattern(300, 200), kind)
        return data[: len(data) // 2]

    return make


def _of_many_scans() -> bytes:
    data = encoded(pattern(), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[data.rindex(b"\xff\xda") : end] * 2000 + data[end:]


def _gif_beyond_its_screen() -> bytes:
    data = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    at = data.index(b",\0\0\0\0\4\0\4\0")
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


def _rows(width: int, height: int) -> bytes:
    """One bit a pixel, all black: 64 megapixels are 8 kB when compressed."""
    return bytes((1 + -(-width // 8)) * height)


PICTURES = [
    Attack("text", "a text file as a picture", sent(lambda: b"hello, I am a picture"), "E-IMAGE-FORMAT"),
    Attack("empty", "a picture of no bytes", sent(lambda: b""), "E-IMAGE-FORMAT"),
    Attack(
        "svg",
        "a vector format with a reference to a file",
        sent(lambda: b"<svg><image href='file:///etc/passwd'/></svg>"),
        "E-IMAGE-FORMAT",
    ),
    Attack(
        "postscript",
        "a format whose reader starts a program",
        sent(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "E-IMAGE-FORMAT",
    ),
    Attack(
        "unread kind",
        "a format Pillow could read and we do not",
        sent(lambda: encoded(pattern(), "TGA")),
        "E-IMAGE-FORMAT",
    ),
    Attack(
        "signature only",
        "the first bytes of a PNG and nothing else",
        sent(lambda: b"\x89PNG\r\n\x1a\n"),
        "E-IMAGE-TRUNCATED",
    ),
    *(
        Attack(f"half a {kind}", "a file cut in the middle", sent(_cut(kind)), "E-IMAGE-TRUNCATED")
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
    ),
    Attack(
        "lying PNG",
        "a header of 30,000 x 30,000 pixels, no pixels",
        sent(lambda: png(30_000, 30_000)),
        "E-IMAGE-PIXELS",
    ),
    Attack("bomb", "64 megapixels in 8 kB", sent(lambda: png(8000, 8000, _rows(8000, 8000))), "E-IMAGE-PIXELS"),
    Attack("thread", "65,536 pixels high, one wide", sent(lambda: png(1, 65_536, _rows(1, 65_536))), "E-IMAGE-PIXELS"),
    Attack("no pixels", "a width of zero", sent(lambda: png(0, 5)), "E-IMAGE-TRUNCATED"),
    Attack("growing GIF", "a frame that reaches far beyond its screen", sent(_gif_beyond_its_screen), "E-IMAGE-PIXELS"),
    Attack(
        "text bomb",
        "a PNG comment that unpacks to 100 MB",
        sent(lambda: png(1, 1, b"\0\0", 1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))))),
        "E-IMAGE-TRUNCATED",
    ),
    Attack("scans", "a JPEG that wants to be decoded two thousand times", sent(_of_many_scans), "E-IMAGE-SCANS"),
    Attack(
        "32-bit greys",
        "pixels that do not say what is white",
        sent(lambda: encoded(pattern().convert("F"), "TIFF")),
        "E-IMAGE-DEPTH",
    ),
    Attack("33 MB", "more bytes than are read", sent(lambda: bytes(33 * 2**20)), "E-IMAGE-BYTES"),
    Attack("twenty", "more pictures than are read", sent(lambda: encoded(pattern(), "PNG"), 20), "E-IMAGE-COUNT"),
    Attack("web", "make the server fetch an address", uri("http://169.254.169.254/latest/meta-data"), "E-IMAGE-URL"),
    Attack("file", "make the server read its own file", uri("file:///etc/passwd"), "E-IMAGE-URL"),
    Attack("path", "the same, by its bare path", uri("/etc/passwd"), "E-IMAGE-URL"),
    Attack("other data", "a data URI of another kind", uri("data:text/html;base64,PGI+"), "E-IMAGE-URL"),
    Attack("raw bytes", "the file itself in place of a URI", uri("\udc89PNG\r\n\x1a\n"), "E-IMAGE-URL"),
    Attack("no URI", "an empty text in place of a URI", uri(""), "E-IMAGE-URL"),
    Attack("bad base64", "characters outside the alphabet", uri("data:image/png;base64,@@@@"), "E-IMAGE-BASE64"),
    Attack("cut base64", "base64 without its padding", uri("data:image/png;base64,iVBORw0KGgo"), "E-IMAGE-BASE64"),
    Attack(
        "second is bad",
        "a good picture before a bad one",
        lambda: {"image_url_input": [good_picture_uri(), picture_uri(b"no")]},
        "E-IMAGE-FORMAT",
    ),
    Attack("1 x 1", "the smallest picture", sent(lambda: encoded(pattern(1, 1), "PNG")), ANSWERED),
    Attack("1 : 200", "a very tall one", sent(lambda: encoded(pattern(3, 600), "PNG")), ANSWERED),
    Attack("200 : 1", "a very wide one", sent(lambda: encoded(pattern(600, 3), "PNG")), ANSWERED),
]


def _palette() -> Image.Image:
    return pattern().quantize(16)


def _grey16() -> Image.Image:
    return Image.fromarray((np.arange(37 * 50, dtype=np.uint32) * 35).astype(np.uint16).reshape(37, 50))


def _animated(kind: str) -> bytes:
    return encoded(pattern(), kind, save_all=True, append_images=[Image.new("RGB", (50, 37), "blue")] * 2)


def _odd_files() -> Iterator[tuple[str, Callable[[], bytes]]]:
    yield "animated GIF", lambda: _animated("GIF")
    yield "animated WebP", lambda: _animated("WEBP")
    yield "animated PNG", lambda: _animated("PNG")
    yield "palette PNG", lambda: encoded(_palette(), "PNG")
    yield "palette PNG with transparency", lambda: encoded(_palette(), "PNG", transparency=bytes(range(16)))
    yield "palette GIF with transparency", lambda: encoded(_palette(), "GIF", transparency=3)
    yield "CMYK JPEG", lambda: encoded(pattern().convert("CMYK"), "JPEG")
    yield "CMYK TIFF", lambda: encoded(pattern().convert("CMYK"), "TIFF")
    yield "16-bit grey PNG", lambda: encoded(_grey16(), "PNG")
    yield "16-bit grey TIFF", lambda: encoded(_grey16(), "TIFF")
    yield "1-bit PNG", lambda: encoded(pattern().convert("1"), "PNG")
    yield "grey with alpha PNG", lambda: encoded(pattern().convert("LA"), "PNG")
    yield "RGBA PNG", lambda: encoded(pattern().convert("RGBA"), "PNG")
    yield "RGBA WebP", lambda: encoded(pattern().convert("RGBA"), "WEBP")
    yield "progressive JPEG", lambda: encoded(pattern(), "JPEG", progressive=True)


ODD_FILES = dict(_odd_files())
"""Files of unusual kinds that people have: all are answered."""
