"""The yardstick itself."""

from __future__ import annotations

import pytest

from tests.attacks.attack import secrets_in


@pytest.mark.parametrize(
    "text",
    [
        "cannot open /tmp/nvlm-trt-x/repository/preprocessing/1/model.py",
        "cannot open ../../secret",
        "<Image object at 0x7fbfe91cc510>",
        "Traceback (most recent call last):",
        'File "model.py", line 5, in execute',
        "UnidentifiedImageError: cannot identify image file",
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT",
        "PIL cannot read it",
        "what(): c10::Error",
    ],
)
def test_secrets_are_seen(text):
    assert secrets_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "E-IMAGE-URL: Picture 1 is not a data URI. Send data:image/png;base64,... (or jpeg, webp, ...).",
        "E-IMAGE-BASE64: Use the standard alphabet with + and /, padded with =.",
        "E-IMAGE-FORMAT: Picture 1 begins with 68 65 6c 6c: not a picture.",
        "in ensemble 'ensemble', E-PARAM-RANGE: top_k is -1; 0 to 2147483647 is allowed.",
    ],
)
def test_ordinary_words_are_not(text):
    assert secrets_in(text) is None
