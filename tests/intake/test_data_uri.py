from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.errors import RequestError
from nvlm_trt.intake.data_uri import _SLICE, MEDIA_TYPES, check_data_uri
from nvlm_trt.model.picture import PictureLimits, read_data_uri

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
GOOD = base64.b64encode(PNG).decode()
LIMITS = PictureLimits(max_bytes=100)


def check(uri: str) -> None:
    check_data_uri(uri, LIMITS, "Picture 1")


@pytest.mark.parametrize("media_type", [*MEDIA_TYPES, "IMAGE/PNG"])
def test_the_type_may_be_any_of_the_list_and_the_content_too(media_type):
    check(f"data:{media_type};base64,{GOOD}")


@given(st.binary(max_size=90))
def test_what_passes_is_read_as_the_same_bytes_by_the_ensemble(data):
    uri = "data:image/png;base64," + base64.b64encode(PNG[:8] + data).decode()
    check(uri)
    assert read_data_uri(uri, LIMITS) == PNG[:8] + data


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("", "E-IMAGE-URL"),
        ("data:", "E-IMAGE-URL"),
        (f"data:image/png,{GOOD}", "E-IMAGE-URL"),
        (f"data:image/png;base64 ,{GOOD}", "E-IMAGE-URL"),
        (f" data:image/png;base64,{GOOD}", "E-IMAGE-URL"),
        (f"data:image/png;charset=utf-8;base64,{GOOD}", "E-IMAGE-TYPE"),
        (f"data:;base64,{GOOD}", "E-IMAGE-TYPE"),
        (f"data:text/html;base64,{GOOD}", "E-IMAGE-TYPE"),
        (f"data:image/svg+xml;base64,{GOOD}", "E-IMAGE-TYPE"),
        (f"data:image/*;base64,{GOOD}", "E-IMAGE-TYPE"),
        ("data:image/" + "x" * 100 + f";base64,{GOOD}", "E-IMAGE-URL"),
        ("data:image/png;base64,", "E-IMAGE-FORMAT"),
        ("data:image/png;base64,aGVsbG8=", "E-IMAGE-FORMAT"),
        ("data:image/png;base64,PHN2Zz48L3N2Zz4=", "E-IMAGE-FORMAT"),
        (f"data:image/png;base64,{GOOD}\n", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD[:8]} {GOOD[8:]}", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD[:-2]}", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD}{GOOD}", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD[:8]}=={GOOD[8:]}", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD[:8]}_-{GOOD[10:]}", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD[:8]}%2B{GOOD[8:]}", "E-IMAGE-BASE64"),
        (f"data:image/png;base64,{GOOD[:8]}ä{GOOD[8:]}", "E-IMAGE-BASE64"),
        ("data:image/png;base64," + "A" * 140, "E-IMAGE-BYTES"),
    ],
)
def test_every_other_form_is_refused(uri, code):
    with pytest.raises(RequestError, match=code):
        check(uri)


@pytest.mark.parametrize("at", [10, _SLICE - 2, _SLICE, _SLICE + 1, 2 * _SLICE - 1])
@pytest.mark.parametrize("odd", ["=", " ", "-", "ä"])
def test_a_long_picture_is_read_as_strictly_wherever_it_is_odd(at, odd):
    limits = PictureLimits(max_bytes=2**20)
    payload = base64.b64encode(PNG + bytes(2 * _SLICE)).decode()
    check_data_uri(f"data:image/png;base64,{payload}", limits, "Picture 1")
    with pytest.raises(RequestError, match="E-IMAGE-BASE64"):
        check_data_uri(f"data:image/png;base64,{payload[:at]}{odd}{payload[at + 1 :]}", limits, "Picture 1")


def test_two_pictures_that_meet_between_two_slices_are_none():
    first = base64.b64encode(PNG + bytes(_SLICE // 4 * 3 - len(PNG) - 1)).decode()
    assert len(first) == _SLICE
    assert first[-1] == "="
    with pytest.raises(RequestError, match="E-IMAGE-BASE64"):
        check_data_uri(f"data:image/png;base64,{first}{GOOD}", PictureLimits(max_bytes=2**20), "Picture 1")
