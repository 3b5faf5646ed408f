"""Every attack on the ensemble through every door: its code, no secrets, and the server unharmed."""

from __future__ import annotations

import unicodedata

import pytest

from nvlm_trt.model.picture import decode_picture
from nvlm_trt.model.tokenizer import NvlmTokenizer
from tests.attacks.attack import ANSWERED, Attack, check
from tests.attacks.bodies import BODIES, Body
from tests.attacks.conftest import GOOD
from tests.attacks.doors import picture_uri
from tests.attacks.parameters import PARAMETERS
from tests.attacks.pictures import ODD_FILES, PICTURES, encoded, good_picture_uri
from tests.attacks.prompts import CONTROL_TEXTS, PROMPTS

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.mark.parametrize("attack", [*PICTURES, *PROMPTS, *PARAMETERS], ids=lambda attack: attack.name)
def test_attack(door, attack: Attack):
    reply = door.send({**GOOD, **attack.change()})
    check(reply, attack.code)
    assert (reply.input_tokens > 0) == (attack.code == ANSWERED)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.tried)
def test_body(http_door, body: Body):
    reply = http_door.post(body.path, body.body)
    check(reply, body.code)
    assert body.says in reply.error


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_are_answered_as_the_plain_picture_in_them(grpc_door, name):
    data = ODD_FILES[name]()
    plain = encoded(decode_picture(data), "PNG")
    odd_reply, plain_reply = (
        grpc_door.send({**GOOD, "image_url_input": [picture_uri(file)]}) for file in (data, plain)
    )
    assert odd_reply.text
    assert odd_reply == plain_reply


@pytest.mark.parametrize("name", CONTROL_TEXTS)
def test_control_typed_as_text_reaches_the_model_as_text(grpc_door, small_checkpoint, name):
    """Beside a picture: the text gives no special token and no row, takes none away, and loses no byte."""
    tokenizer = NvlmTokenizer.from_folder(small_checkpoint)
    text = unicodedata.normalize("NFC", CONTROL_TEXTS[name])
    picture = {"max_tokens": 1, "image_url_input": [good_picture_uri()]}
    ids, plain = (
        grpc_door.outputs("preprocessing", {"text_input": asked, **picture}, "input_ids") for asked in (text, "x")
    )
    learned = range(tokenizer.special_id("<|endoftext|>"))
    assert [id for id in ids if id not in learned] == [id for id in plain if id not in learned]
    assert text.encode() in tokenizer.decode_bytes(ids)


def test_text_behind_a_nul_is_read(door, grpc_door, small_checkpoint):
    text = "before\0after"
    ids = grpc_door.outputs("preprocessing", {"text_input": text, "max_tokens": 1}, "input_ids")
    assert text.encode() in NvlmTokenizer.from_folder(small_checkpoint).decode_bytes(ids)
    assert door.send({"text_input": text, "max_tokens": 1}).input_tokens == len(ids)
