from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.errors import CheckpointError
from nvlm_trt.model.tokenizer import NvlmTokenizer
from tests.model.qwen_ranks import ADDED_NAMES, NUM_LEARNED, qwen_merges, qwen_ranks, qwen_vocab

TEXTS = st.text(max_size=60) | st.lists(
    st.sampled_from(
        [*ADDED_NAMES, " ", "\n", "é", "e\u0301", "日本", "👍🏽", "don't", "12 345", "a", "\t\t", "<tile_1>"]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<tile_1>", [27, 21094, 62, 16, 29]),
        ("<tile_6>", [27, 21094, 62, 21, 29]),
        ("<tile_global_thumbnail>", [27, 21094, 19296, 37824, 29]),
        ("<Image>", [46465, 29]),
        ("<Image><tile_1>", [46465, 1784, 21094, 62, 16, 29]),
        ("<Image><tile_global_thumbnail>", [46465, 1784, 21094, 19296, 37824, 29]),
        ("</Image>\n", [522, 1906, 397]),
        ("</Image>\n<Image>", [522, 1906, 397, 46465, 29]),
        ("</Image><Image>", [522, 1906, 1784, 1906, 29]),
        ("Answer the questions.", [16141, 279, 4755, 13]),
        ("system\n", [8948, 198]),
        ("user\n", [872, 198]),
        ("assistant\n", [77091, 198]),
        ("\n", [198]),
        ("", []),
    ],
)
def test_the_ids_of_the_release(qwen, text, ids):
    assert qwen.encode_text(text) == ids


def test_added_tokens_have_the_ids_of_the_release(qwen):
    assert [qwen.special_id(name) for name in ADDED_NAMES] == list(range(151643, 151665))
    assert (qwen.eos_id, qwen.pad_id, qwen.vocab_len) == (151645, 151643, 151665)


@given(TEXTS)
@settings(deadline=None)
def test_no_text_becomes_an_added_token(qwen, text):
    assert all(id < NUM_LEARNED for id in qwen.encode_text(text))


@given(TEXTS)
@settings(deadline=None)
def test_decoding_gives_back_the_normalised_text(qwen, text):
    assert qwen.decode_bytes(qwen.encode_text(text)).decode() == unicodedata.normalize("NFC", text)


@pytest.fixture(scope="module")
def reference() -> tiktoken.Encoding:
    """The same ranks in another implementation, which needs no merges."""
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    special = {name: NUM_LEARNED + i for i, name in enumerate(ADDED_NAMES)}
    return tiktoken.Encoding("qwen", pat_str=words, mergeable_ranks=qwen_ranks(), special_tokens=special)


@given(TEXTS)
@settings(deadline=None)
def test_ids_are_those_of_another_implementation(qwen, reference, text):
    assert qwen.encode_text(text) == reference.encode_ordinary(unicodedata.normalize("NFC", text))


@given(st.lists(st.integers(0, NUM_LEARNED - 1), max_size=30))
@settings(deadline=None)
def test_bytes_are_those_of_another_implementation(qwen, reference, ids):
    assert qwen.decode_bytes(ids) == reference.decode_bytes(ids)


def test_special_tokens_and_unknown_ids_print_nothing(qwen):
    hello = qwen.encode_text("hello")
    assert qwen.decode_bytes([qwen.eos_id, *hello, qwen.pad_id, 151665, 152063, 10**9, -1]) == b"hello"
    assert qwen.decode_bytes([qwen.special_id("<tool_call>")]) == b"<tool_call>"


@pytest.mark.parametrize("merges_as_pairs", [False, True])
def test_a_tokenizer_json_alone_gives_the_same_tokenizer(qwen, tmp_path, merges_as_pairs):
    added = [
        {"id": qwen.special_id(name), "content": name, "special": qwen.decode_bytes([qwen.special_id(name)]) == b""}
        for name in ADDED_NAMES
    ]
    merges = [list(merge) if merges_as_pairs else " ".join(merge) for merge in qwen_merges()]
    whole = {"model": {"type": "BPE", "vocab": qwen_vocab(), "merges": merges}, "added_tokens": added}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    other = NvlmTokenizer.from_folder(tmp_path)
    text = "What is <Image><tile_1> 日本 doing?\n\n"
    assert other.encode_text(text) == qwen.encode_text(text)
    assert (other.vocab_len, other.eos_id, other.pad_id) == (qwen.vocab_len, qwen.eos_id, qwen.pad_id)


def test_the_small_checkpoint_has_the_same_names_and_tags(small_checkpoint):
    small = NvlmTokenizer.from_folder(small_checkpoint)
    assert [small.special_id(name) - small.special_id("<|endoftext|>") for name in ADDED_NAMES] == list(range(22))
    assert len(small.encode_text("<tile_1>")) > 1
    assert small.eos_id == small.special_id("<|im_end|>")


# A tokenizer of single bytes and two merges is enough to show what is refused.


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A writable folder with the smallest tokenizer that is accepted."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(byte) for byte in visible] + [chr(0x100 + i) for i in range(256 - len(visible))]
    vocab = {char: id for id, char in enumerate([*alphabet, "ab", "abc"])}
    added = {"258": "<|endoftext|>", "259": "<|im_start|>", "260": "<|im_end|>"}
    decoder = {id: {"content": name, "special": True} for id, name in added.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nab c\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return tmp_path


def test_the_smallest_tokenizer(tiny):
    tokenizer = NvlmTokenizer.from_folder(tiny)
    assert tokenizer.encode_text("abcab") == [257, 256]
    assert tokenizer.decode_bytes([257, 256, 260]) == b"abcab"
    assert tokenizer.vocab_len == 261


def _edit(folder: Path, file: str, change) -> None:
    data = json.loads((folder / file).read_text())
    change(data)
    (folder / file).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("E-TOKENIZER-MISSING", lambda f: (f / "vocab.json").unlink()),
        ("E-TOKENIZER-MISSING", lambda f: (f / "merges.txt").unlink()),
        ("E-TOKENIZER-MISSING", lambda f: (f / "tokenizer_config.json").unlink()),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "vocab.json").write_text("{")),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "vocab.json").write_text("[" * 100_000)),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "vocab.json").write_bytes(b"\xff\xfe")),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "tokenizer_config.json").write_text("[]")),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "tokenizer_config.json").write_text("{}")),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "merges.txt").write_text("#version: 0.2\na b c\n")),
        ("E-TOKENIZER-FORMAT", lambda f: (f / "merges.txt").write_bytes(b"\xff \xfe\n")),
        ("E-TOKENIZER-MERGES", lambda f: (f / "merges.txt").write_text("a c\n")),
        ("E-TOKENIZER-BYTES", lambda f: _edit(f, "vocab.json", lambda v: v.pop("Ġ"))),
        ("E-TOKENIZER-FORMAT", lambda f: _edit(f, "vocab.json", lambda v: v.update({"日": 300}))),
        ("E-TOKENIZER-FORMAT", lambda f: _edit(f, "vocab.json", lambda v: v.update({"ab": "256"}))),
        ("E-TOKENIZER-FORMAT", lambda f: _edit(f, "vocab.json", lambda v: v.update({"ab": -1}))),
        ("E-TOKENIZER-IDS", lambda f: _edit(f, "vocab.json", lambda v: v.update({"ab": 260}))),
        ("E-TOKENIZER-IDS", lambda f: _edit(f, "vocab.json", lambda v: v.update({"<|im_end|>": 300}))),
        ("E-TOKENIZER-SPECIAL", lambda f: _edit(f, "tokenizer_config.json", lambda c: c.update(eos_token="</s>"))),
        ("E-TOKENIZER-FORMAT", lambda f: _edit(f, "tokenizer_config.json", lambda c: c.update(eos_token=7))),
        (
            "E-TOKENIZER-FORMAT",
            lambda f: _edit(f, "tokenizer_config.json", lambda c: c["added_tokens_decoder"].update({"-1": {}})),
        ),
    ],
)
def test_what_is_refused(tiny, code, spoil):
    spoil(tiny)
    with pytest.raises(CheckpointError) as caught:
        NvlmTokenizer.from_folder(tiny)
    assert caught.value.code == code
    assert str(tiny) not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "whole"),
    [
        ("E-TOKENIZER-KIND", {"model": {"type": "Unigram"}}),
        ("E-TOKENIZER-KIND", {"model": {"type": "BPE", "byte_fallback": True}}),
        ("E-TOKENIZER-FORMAT", {"model": {"type": "BPE", "vocab": {}}}),
        ("E-TOKENIZER-FORMAT", {"model": {"type": "BPE", "merges": []}, "added_tokens": []}),
        ("E-TOKENIZER-FORMAT", {"model": {"vocab": {}, "merges": [[1, 2]]}, "added_tokens": []}),
        ("E-TOKENIZER-FORMAT", {"model": {"vocab": {}, "merges": []}, "added_tokens": ["<|im_end|>"]}),
        ("E-TOKENIZER-FORMAT", {}),
    ],
)
def test_what_is_refused_of_a_tokenizer_json(tmp_path, code, whole):
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError) as caught:
        NvlmTokenizer.from_folder(tmp_path)
    assert caught.value.code == code


def test_an_added_token_may_be_listed_in_the_vocabulary_too(tiny):
    _edit(tiny, "vocab.json", lambda vocab: vocab.update({"<|im_end|>": 260}))
    assert 260 not in NvlmTokenizer.from_folder(tiny).encode_text("<|im_end|>")


def test_names_may_be_given_as_objects(tiny):
    _edit(tiny, "tokenizer_config.json", lambda config: config.update(pad_token={"content": "<|im_start|>"}))
    assert NvlmTokenizer.from_folder(tiny).pad_id == 259


def test_an_unknown_special_name_is_an_error(qwen):
    with pytest.raises(CheckpointError, match=r"E-TOKENIZER-SPECIAL: .*'<image>'"):
        qwen.special_id("<image>")
