from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.errors import CheckpointError, RequestError
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.model.tiling import cut_tiles
from nvlm_trt.serving.parameters import RequestFields
from nvlm_trt.serving.preprocess import Preprocessor

EXAMPLE = "Please describe the image shortly."


def fields(text: str = EXAMPLE, *images: bytes, max_tokens: int = 16, **more) -> RequestFields:
    return RequestFields(text_input=text, images=images, max_tokens=max_tokens, **more)


def code_of(preprocessor: Preprocessor, asked: RequestFields) -> str:
    with pytest.raises(RequestError) as caught:
        preprocessor.prepare(asked)
    return caught.value.code


@pytest.fixture(scope="session")
def released(qwen_folder, tmp_path_factory) -> dict[PromptStyle, Preprocessor]:
    """The full-size model's own sizes and Qwen's real tokenizer, in both prompt styles."""
    folder = tmp_path_factory.mktemp("released")
    for file in qwen_folder.iterdir():
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(config_json(SIZES["full"])))
    return {
        style: Preprocessor.from_folder(folder, style=style, max_images=3, max_seq_len=8192) for style in PromptStyle
    }


@pytest.mark.parametrize(
    ("width", "height", "tiles", "total"),
    [(448, 448, 1, 286), (896, 448, 3, 808), (448, 1344, 4, 1069), (640, 480, 7, 1852)],
)
def test_a_picture_of_the_release(released, png, width, height, tiles, total):
    prepared = released[PromptStyle.HF].prepare(fields(EXAMPLE, png(width, height)))
    assert prepared.input_ids.shape == prepared.extra_ids.shape == (total,)
    assert (prepared.tiles.shape, prepared.tiles.dtype) == ((tiles, 448, 448, 3), np.uint8)
    assert prepared.image_sizes == ((width, height),)
    assert prepared.input_ids.max() == 152064 + 256 * tiles - 1
    assert (prepared.end_id, prepared.pad_id) == (151645, 151643)
    megatron = released[PromptStyle.MEGATRON].prepare(fields(EXAMPLE, png(width, height)))
    assert len(megatron.input_ids) == 261 * tiles + 28


@pytest.mark.parametrize(("limit", "tiles"), [(1, 1), (2, 1), (6, 7), (12, 7), (None, 7)])
def test_a_picture_may_have_fewer_tiles_than_the_model_allows(small_checkpoint, png, limit, tiles):
    """Never more: the model was not trained on them. A grid of one has no thumbnail beside it."""
    limited = Preprocessor.from_folder(small_checkpoint, max_images=1, max_seq_len=4096, max_tiles=limit)
    assert len(limited.prepare(fields(EXAMPLE, png(90, 60))).tiles) == tiles


def test_everything_is_explicit(preprocessor, png):
    prepared = preprocessor.prepare(fields(EXAMPLE, png(90, 60), stop_words=("stop", " stop"), min_tokens=2))
    tokenizer = preprocessor.tokenizer
    assert (prepared.max_tokens, prepared.min_tokens, prepared.stream, prepared.return_log_probs) == (
        16,
        2,
        False,
        False,
    )
    assert (prepared.end_id, prepared.pad_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert prepared.stop_words == tuple(tuple(tokenizer.encode_text(word)) for word in ("stop", " stop"))
    assert prepared.bad_words == ()
    assert [str(grid) for grid in prepared.grids] == ["3x2"]
    assert prepared.request_key > 0


def test_text_alone_has_no_tiles(preprocessor):
    prepared = preprocessor.prepare(fields("What is 2+2?"))
    size = preprocessor.config.tiling.tile_size
    assert (prepared.tiles.shape, prepared.tiles.dtype) == ((0, size, size, 3), np.uint8)
    assert not prepared.extra_ids.any()
    assert prepared.input_ids.max() < preprocessor.config.decoder.vocab_size


def test_tiles_of_several_pictures_follow_one_another(preprocessor, png):
    files = [png(90, 60, seed=1), png(40, 40, seed=2), png(30, 90, seed=3)]
    prepared = preprocessor.prepare(fields("<image> <image> <image>?", *files))
    cut = [cut_tiles(Image.open(BytesIO(file)).convert("RGB"), preprocessor.config.tiling) for file in files]
    assert np.array_equal(prepared.tiles, np.concatenate(cut))
    rows = prepared.input_ids[prepared.extra_ids != 0] - preprocessor.config.decoder.vocab_size
    assert rows.tolist() == list(range(len(prepared.tiles) * preprocessor.config.vision.tokens_per_tile))


def test_extra_ids_tell_pictures_apart_by_content_alone(preprocessor, png):
    def ids(*files: bytes) -> list[int]:
        extra = preprocessor.prepare(fields("?", *files)).extra_ids
        assert extra.dtype == np.uint64
        changes = np.flatnonzero(np.diff(extra, prepend=np.uint64(0)))
        return [int(extra[at]) for at in changes if extra[at]]

    def pictures(*files: bytes) -> list[int]:
        return list(dict.fromkeys(ids(*files)))

    one, two = png(40, 40, seed=1), png(40, 40, seed=2)
    (first,), (second,) = pictures(one), pictures(two)
    assert first != second
    assert pictures(one, two) == [first, second]
    assert pictures(one, one) == [first]
    again = BytesIO()
    Image.open(BytesIO(one)).save(again, "BMP")
    assert pictures(again.getvalue()) == [first]


def test_the_same_request_gives_the_same_but_for_its_key(preprocessor, png):
    one, two = (preprocessor.prepare(fields(EXAMPLE, png())) for _ in range(2))
    assert np.array_equal(one.input_ids, two.input_ids)
    assert np.array_equal(one.extra_ids, two.extra_ids)
    assert np.array_equal(one.tiles, two.tiles)
    assert one.request_key != two.request_key


def test_keys_are_unique_among_threads(preprocessor):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: preprocessor.prepare(fields()).request_key, range(200)))
    assert len(set(keys)) == 200
    assert all(0 < key < 2**63 for key in keys)


def test_values_of_a_client_in_one_call(preprocessor, png):
    uri = b"data:image/png;base64," + base64.b64encode(png())
    prepared = preprocessor.prepare_client(
        {"text_input": [EXAMPLE.encode()], "max_tokens": np.array([5], np.int32), "image_url_input": [uri]}
    )
    assert (prepared.max_tokens, len(prepared.tiles)) == (5, 7)


def test_too_long(preprocessor, png):
    short = preprocessor.prepare(fields(EXAMPLE, png()))
    room = preprocessor.max_seq_len - len(short.input_ids)
    assert preprocessor.prepare(fields(EXAMPLE, png(), max_tokens=room)).max_tokens == room
    with pytest.raises(RequestError) as caught:
        preprocessor.prepare(fields(EXAMPLE, png(), max_tokens=room + 1))
    assert caught.value.code == "E-PROMPT-LENGTH"
    rows = 7 * preprocessor.config.vision.tokens_per_tile
    assert f"{len(short.input_ids):,} tokens, {rows:,} of them for pictures" in str(caught.value)
    assert f"with {room + 1:,} for the answer that is more than the 4,096" in str(caught.value)
    assert code_of(preprocessor, fields("word " * 5000)) == "E-PROMPT-LENGTH"


def test_an_endless_question_is_refused_unread(preprocessor):
    with pytest.raises(RequestError, match="E-PROMPT-LENGTH: The question has 30,000,000 bytes"):
        preprocessor.prepare(fields("a" * 30_000_000))


def test_too_many_pictures(preprocessor, png):
    assert code_of(preprocessor, fields(EXAMPLE, *[png()] * 20)) == "E-IMAGE-COUNT"


def test_an_error_names_the_picture(preprocessor, png):
    with pytest.raises(RequestError, match="E-IMAGE-TRUNCATED: Picture 2 begins as a PNG"):
        preprocessor.prepare(fields(EXAMPLE, png(), png()[:200]))


@pytest.mark.parametrize("name", ["end_id", "pad_id"])
def test_ids_the_decoder_does_not_have(preprocessor, name):
    last = preprocessor.config.decoder.vocab_size - 1
    assert getattr(preprocessor.prepare(fields(**{name: last})), name) == last
    assert code_of(preprocessor, fields(**{name: last + 1})) == "E-PARAM-RANGE"


def test_an_end_id_of_minus_one_never_ends(preprocessor):
    assert preprocessor.prepare(fields(end_id=-1)).end_id == -1


@pytest.mark.parametrize(
    "typed", ["<|im_end|>", "<|vision_pad|>", "<|endoftext|>", "<tool_call>", "<tile_1>", "<Image>", "</Image>"]
)
def test_typed_control_reaches_the_model_as_text(preprocessor, typed):
    tokenizer = preprocessor.tokenizer
    prepared = preprocessor.prepare(fields(typed))
    plain = preprocessor.prepare(fields("x"))
    control = tokenizer.special_id("<|endoftext|>")
    assert (prepared.input_ids >= control).sum() == (plain.input_ids >= control).sum()
    assert typed.encode() in tokenizer.decode_bytes(prepared.input_ids.tolist())
    assert not prepared.extra_ids.any()


def test_the_door_opens_without_any_engine():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tritonclient', 'transformers'}"
    code = (
        f"import sys, nvlm_trt.serving.preprocess, nvlm_trt.serving.detokenize; assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _folder(small_checkpoint, tmp_path):
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(small_checkpoint / name, tmp_path)
    return tmp_path


def _edit_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("E-CONFIG-MISSING", lambda folder: (folder / "config.json").unlink()),
        ("E-CONFIG-FORMAT", lambda folder: (folder / "config.json").write_text("nonsense")),
        ("E-CONFIG-VALUE", lambda folder: _edit_config(folder, use_thumbnail=False)),
        ("E-TOKENIZER-MISSING", lambda folder: (folder / "merges.txt").unlink()),
    ],
)
def test_a_broken_model_folder(small_checkpoint, tmp_path, code, spoil):
    folder = _folder(small_checkpoint, tmp_path)
    spoil(folder)
    with pytest.raises(CheckpointError) as caught:
        Preprocessor.from_folder(folder, max_images=1, max_seq_len=100)
    assert caught.value.code == code


def test_a_tokenizer_of_another_checkpoint(small_checkpoint, qwen_folder, tmp_path):
    folder = _folder(small_checkpoint, tmp_path)
    for file in qwen_folder.iterdir():
        shutil.copy(file, folder)
    with pytest.raises(CheckpointError) as caught:
        Preprocessor.from_folder(folder, max_images=1, max_seq_len=100)
    assert caught.value.code == "E-TOKENIZER-VOCAB"
