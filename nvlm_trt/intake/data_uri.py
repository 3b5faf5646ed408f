"""Data URIs, read strictly: ``data:TYPE;base64,`` and one unbroken padded base64.

The ensemble's own reader is as lenient as browsers are. At the public door a form that two readers could understand
differently is refused instead. The media type must be on a list, and so must the content, told from its bytes. They may
differ, because many clients write ``image/jpeg`` in front of a PNG, and nothing is chosen by the type.
"""

from __future__ import annotations

import binascii

from nvlm_trt.errors import RequestError
from nvlm_trt.model.picture import PictureLimits, recognise_picture, too_many_bytes

__all__ = ["MEDIA_TYPES", "check_data_uri"]

MEDIA_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
_MAX_HEAD = 64
_SLICE = 2**18  # of whole groups of four: decoding one holds the interpreter, and other threads up, for 3 ms


def check_data_uri(uri: str, limits: PictureLimits, name: str) -> None:
    """Raises ``RequestError``: E-IMAGE-URL, E-IMAGE-TYPE, E-IMAGE-BYTES, E-IMAGE-BASE64, E-IMAGE-FORMAT."""
    head, comma, payload = uri[:_MAX_HEAD].partition(",")
    scheme, _, form = head.partition(":")
    if not comma or scheme.lower() != "data" or not form.endswith(";base64"):
        raise RequestError("E-IMAGE-URL", f"{name} is not data:TYPE;base64,...", "Send data:image/png;base64,...")
    media_type = form.removesuffix(";base64").lower()
    if media_type not in MEDIA_TYPES:
        raise RequestError(
            "E-IMAGE-TYPE", f"{name} is of type {media_type[:40]!r}.", f"These are read: {', '.join(MEDIA_TYPES)}."
        )
    payload = uri[len(head) + 1 :]
    size = len(payload) * 3 // 4
    if size > limits.max_bytes + 2:
        raise too_many_bytes(name, size, limits)
    try:
        data = _first_bytes(payload)
    except ValueError:  # also for what is not ASCII
        raise RequestError(
            "E-IMAGE-BASE64",
            f"{name} is not valid base64 ({len(payload):,} characters).",
            "Use the standard alphabet with + and /, padded with =, without blanks.",
        ) from None
    recognise_picture(data[:16], name)


def _first_bytes(payload: str) -> bytes:
    """All of it is read, and only the beginning kept. Raises ``ValueError``."""
    slices = range(0, len(payload), _SLICE)
    if any(payload[end - 1] == "=" for end in slices[1:]):
        raise ValueError("padding before the end")
    first = b""
    for begin in slices:
        data = binascii.a2b_base64(payload[begin : begin + _SLICE], strict_mode=True)
        first = first or data
    return first
