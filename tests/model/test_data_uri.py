"""Pictures as data URIs."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.errors import RequestError
from nvlm_trt.model.picture import PictureLimits, read_data_uri


@given(st.binary(max_size=100), st.sampled_from(["png", "jpeg", "svg+xml", "PNG;charset=utf-8"]), st.booleans())
@settings(deadline=None)
def test_data_uris_carry_any_bytes(data, kind, as_text):
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    assert read_data_uri(uri if as_text else uri.encode()) == data


def test_line_ends_in_base64_are_ignored():
    data = bytes(range(200))
    assert read_data_uri(b"data:image/png;base64," + base64.encodebytes(data)) == data


@pytest.mark.parametrize(
    "uri",
    [
        "", "http://example.com/a.png", "https://example.com/a,b.png", "file:///etc/passwd", "/etc/passwd", "a.png",
        "data:text/html;base64,AAAA", "data:image/png,AAAA", "data:image/png;base64", "data:;base64,AAAA", "\ud800",
        "data:image/" + "x" * 1000 + ";base64,AAAA", b"\xff\xfe,", "ftp://example.com/data:image/png;base64,AAAA",
    ],
)  # fmt: skip
def test_addresses_and_paths_are_not_followed(uri):
    with pytest.raises(RequestError) as caught:
        read_data_uri(uri)
    assert caught.value.code == "E-IMAGE-URL"
    assert "remote pictures are off" in str(caught.value)
    assert "passwd" not in str(caught.value)


@pytest.mark.parametrize("payload", ["A", "AAA", "A===", "AA=A", "_-_-", "ÄÄÄÄ", "AA\0A", "%41AAA"])
def test_bad_base64(payload):
    with pytest.raises(RequestError) as caught:
        read_data_uri("data:image/png;base64," + payload)
    assert caught.value.code == "E-IMAGE-BASE64"


def test_a_large_data_uri_is_refused_before_it_is_decoded():
    with pytest.raises(RequestError) as caught:
        read_data_uri("data:image/png;base64," + "!" * 2000, PictureLimits(max_bytes=1000))
    assert caught.value.code == "E-IMAGE-BYTES"
    assert read_data_uri("data:image/png;base64," + "AAAA" * 4, PictureLimits(max_bytes=12)) == bytes(12)
