"""Decodes the bytes a client sent to an 8-bit RGB image, or raises an error that says what is wrong with them.

Pictures are read as the release reads them, with its quirks. They are converted to RGB before anything else; alpha is
dropped rather than blended; colour profiles and the EXIF orientation are ignored, so the picture is taken as stored; an
animation gives its first frame. Pillow applies TIFF's own orientation tag, as it does in the release. One departure:
16-bit greys keep their upper eight bits, as 16-bit colours do, where the release would clip everything above 255 to
white.

Clients are not trusted. A picture's kind is told from its first bytes, and only six kinds are tried. Its size is read
from the header and checked before a pixel is decoded. A JPEG's scans are counted too: each is a pass over all pixels
and costs its sender a few dozen bytes, so a file within all other limits could take hours. The plugins are called
directly, because ``Image.open`` compares sizes with a process-wide limit of its own and warns about them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from nvlm_trt.errors import RequestError
from nvlm_trt.model.jpeg import JpegDecoder
from nvlm_trt.model.pixels import Pixels, to_image

__all__ = [
    "PictureLimits",
    "decode_picture",
    "decode_pixels",
    "read_data_uri",
    "recognise_picture",
    "too_many_bytes",
]


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What one picture may cost.

    ``max_pixels`` bounds the decoded image (4 bytes a pixel inside Pillow, twice that while converting);
    ``max_side_px`` bounds the resize of a very thin one, whose first pass keeps the full height. 65,535 is what a JPEG
    can have. ``max_scans`` bounds a JPEG's passes: encoders write about ten, and 100 is where libtiff stops as well.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_side_px: int = 65_535
    max_scans: int = 100


_DEFAULT_LIMITS = PictureLimits()
_SIGNATURES: tuple[tuple[re.Pattern[bytes], str, Callable[[BytesIO], ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG", JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP", WebPImageFile),
    (re.compile(rb"GIF8[79]a"), "GIF", GifImageFile),
    (re.compile(rb"BM"), "BMP", BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF", TiffImageFile),
)
# What people take for a picture that is read.
_OTHERS = (
    (re.compile(rb"....ftyp(hei|hev|mif|msf|avi)", re.DOTALL), "a HEIF picture, as iPhones write it, or AVIF"),
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"<(svg|\?xml)"), "an SVG drawing or other XML"),
)
_KINDS = "JPEG, PNG, WebP, GIF, BMP and TIFF"
_DATA_URI = re.compile(rb"data:image/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64\Z", re.IGNORECASE)
_MAX_URI_HEAD = 256
_BITS_PER_SAMPLE = 258  # TIFF tag; there are greys of 12 bits
# Markers that have a length. 0xff before 0 is data; restart markers and 0x01 are bare, within scans or without.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd7])", re.DOTALL)
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xd9"


def decode_picture(data: bytes, limits: PictureLimits = _DEFAULT_LIMITS, name: str = "The picture") -> Image.Image:
    """Decode an encoded picture to an RGB image with Pillow; raises what ``decode_pixels`` does."""
    return to_image(decode_pixels(data, limits, name))


def decode_pixels(
    data: bytes,
    limits: PictureLimits = _DEFAULT_LIMITS,
    name: str = "The picture",
    quick_jpeg: JpegDecoder | None = None,
) -> Pixels:
    """Decode an encoded picture to RGB; ``name`` begins the sentence of an error.

    ``quick_jpeg`` is asked first about JPEGs, once they are within ``limits``; what it declines, Pillow decodes.
    Raises ``RequestError``: E-IMAGE-BYTES (the file is too large), E-IMAGE-FORMAT (no picture of a known kind),
    E-IMAGE-PIXELS (too many pixels), E-IMAGE-SCANS (too many passes), E-IMAGE-TRUNCATED (cut short or damaged),
    E-IMAGE-DEPTH (32-bit greys).
    """
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits)
    kind, plugin = recognise_picture(data, name)
    try:
        # Anything may come out of a parser that is fed hostile bytes; whatever it is, this picture cannot be read.
        image = plugin(BytesIO(data))
        _check_size(image, limits, name)
        if kind == "JPEG":
            _check_scans(data, limits, name)
            pixels = quick_jpeg(data, image) if quick_jpeg else None
            if pixels is not None:
                return pixels
        image.load()
        return _to_rgb(image, name)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # A GIF frame that reaches beyond its screen enlarges it while the header is read.
        raise RequestError("E-IMAGE-PIXELS", f"{name} is larger than it says.", _smaller(limits)) from None
    except Exception:
        raise RequestError(
            "E-IMAGE-TRUNCATED",
            f"{name} begins as a {kind} file but is cut short or damaged ({len(data):,} bytes arrived).",
            "Check that the whole file was sent.",
        ) from None


def read_data_uri(text: bytes | str, limits: PictureLimits = _DEFAULT_LIMITS, name: str = "The picture") -> bytes:
    """The bytes of ``data:image/...;base64,...``. The media type is not trusted: the bytes decide what they are.

    Blanks and line ends inside the base64 are ignored, as browsers do. Raises ``RequestError``: E-IMAGE-URL (anything
    but a data URI), E-IMAGE-BASE64, E-IMAGE-BYTES.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    comma = raw.find(b",", 0, _MAX_URI_HEAD)
    if comma < 0 or not _DATA_URI.match(raw[:comma].lstrip()):
        raise RequestError(
            "E-IMAGE-URL",
            f"{name} is not a data URI. Pictures are not fetched from addresses or files: remote pictures are off.",
            "Send data:image/png;base64,... (or jpeg, webp, ...) with the file's own bytes.",
        )
    payload = raw[comma + 1 :].translate(None, b" \t\r\n\f")
    if len(payload) * 3 // 4 > limits.max_bytes + 2:
        raise too_many_bytes(name, len(payload) * 3 // 4, limits)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            "E-IMAGE-BASE64",
            f"{name} is not valid base64 ({len(payload):,} characters).",
            "Use the standard alphabet with + and /, padded with =.",
        ) from None


def recognise_picture(data: bytes, name: str = "The picture") -> tuple[str, Callable[[BytesIO], ImageFile]]:
    """Kind and decoder, from the first bytes. Raises ``RequestError`` E-IMAGE-FORMAT."""
    for signature, kind, plugin in _SIGNATURES:
        if signature.match(data):
            return kind, plugin
    other = next((kind for signature, kind in _OTHERS if signature.match(data)), "not a picture")
    seen = f"begins with {data[:4].hex(' ')}" if data else "is empty"
    raise RequestError("E-IMAGE-FORMAT", f"{name} {seen}: {other}.", f"{_KINDS} files are read.")


def _check_size(image: ImageFile, limits: PictureLimits, name: str) -> None:
    width, height = image.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise RequestError("E-IMAGE-PIXELS", f"{name} has {width:,} x {height:,} pixels.", _smaller(limits))


def _check_scans(data: bytes, limits: PictureLimits, name: str) -> None:
    """Follow the markers of a JPEG to its end; previews inside its metadata are stepped over."""
    at, scans = 2, 0
    while (marker := _JPEG_MARKER.search(data, at)) and marker[1] != _JPEG_END:
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        scans += marker[1] == _JPEG_SCAN
        if scans > limits.max_scans:
            raise RequestError(
                "E-IMAGE-SCANS",
                f"{name} is a JPEG of more than {limits.max_scans} scans.",
                "Save it again; usual files have one to about ten.",
            )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F"):
        raise RequestError(
            "E-IMAGE-DEPTH",
            f"{name} holds 32-bit greys, which do not say what is white.",
            "Convert it to 8 or 16 bits per channel.",
        )
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    # Transparency given per palette entry makes convert() warn; it never touches the colours.
    image.info.pop("transparency", None)
    return image if image.mode == "RGB" else image.convert("RGB")


def _smaller(limits: PictureLimits) -> str:
    return (
        f"At most {limits.max_pixels / 1e6:g} megapixels and {limits.max_side_px:,} pixels on a side are read; "
        "make it smaller (a picture is seen at a few megapixels in any case)."
    )


def too_many_bytes(name: str, seen: int, limits: PictureLimits) -> RequestError:
    """The error E-IMAGE-BYTES."""
    return RequestError(
        "E-IMAGE-BYTES",
        f"{name} is a file of {seen:,} bytes; at most {limits.max_bytes:,} are read.",
        "Send it smaller or compress it more.",
    )
