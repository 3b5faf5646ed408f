from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.checkpoint.synthetic.bpe import BytePairs, byte_symbols
from nvlm_trt.checkpoint.synthetic.tokenizer_files import ADDED_TOKENS, added_token_ids, tokenizer_files
from nvlm_trt.checkpoint.synthetic.words import MARKUP, WORDS

# How Qwen2 cuts text before byte pairs are merged.
PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def load(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_checkpoint: Path) -> Tokenizer:
    return load(small_checkpoint)


# Each cut is that of the release's own vocabulary.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        *((f"<tile_{number}>", ["<", "tile", "_", str(number), ">"]) for number in range(1, 7)),
        ("<tile_12>", ["<", "tile", "_", "1", "2", ">"]),
        ("<tile_global_thumbnail>", ["<", "tile", "_global", "_thumbnail", ">"]),
        ("<Image>", ["<Image", ">"]),
        ("</Image>", ["</", "Image", ">"]),
        ("</Image>\n", ["</", "Image", ">Ċ"]),
        ("<Image><tile_1>", ["<Image", "><", "tile", "_", "1", ">"]),
        ("<Image><tile_global_thumbnail>", ["<Image", "><", "tile", "_global", "_thumbnail", ">"]),
        ("</Image><Image>", ["</", "Image", "><", "Image", ">"]),
        ("system\n", ["system", "Ċ"]),
        ("user\n", ["user", "Ċ"]),
        ("assistant\n", ["assistant", "Ċ"]),
        ("Answer the questions.", ["Answer", "Ġthe", "Ġquestions", "."]),
        ("Please describe the image shortly.", ["Please", "Ġdescribe", "Ġthe", "Ġimage", "Ġshortly", "."]),
    ],
)
def test_texts_are_cut_as_in_the_release(tokenizer: Tokenizer, text: str, tokens: list[str]):
    assert tokenizer.encode(text).tokens == tokens


def test_bytes_have_gpt2s_ids(tokenizer: Tokenizer):
    """Ids the release's vocabulary has for the same one-byte tokens."""
    known = {"<": 27, "_": 62, "1": 16, "6": 21, ">": 29, ".": 13, "\n": 198}
    assert {text: tokenizer.encode(text).ids for text in known} == {text: [index] for text, index in known.items()}
    assert sorted(byte_symbols()) == list(range(256))
    assert len(set(byte_symbols().values())) == 256


def test_every_word_is_one_token(tokenizer: Tokenizer):
    spell = BytePairs(()).spell
    for word in (*MARKUP, *WORDS):
        assert [token.value for token in tokenizer.model.tokenize(spell(word))] == [spell(word)]


def test_a_few_hundred_common_words_are_single_tokens():
    assert len(WORDS) == len(set(WORDS)) > 400
    assert {" the", " picture", " image", " describe", " questions", "What"} <= set(WORDS)


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text).ids
    assert max(ids, default=0) < SIZES["small"].base_vocab
    assert tokenizer.decode(ids) == text


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=12))
def test_a_word_added_stays_one_token_whatever_is_added_later(words: list[str]):
    pairs = BytePairs(words)
    assert len(pairs.tokens) == len(set(pairs.tokens)) == 256 + len(pairs.merges)
    model = models.BPE({token: index for index, token in enumerate(pairs.tokens)}, pairs.merges)
    for word in words:
        assert [token.value for token in model.tokenize(pairs.spell(word))] == [pairs.spell(word)]


def test_ids_have_no_holes(small_checkpoint: Path):
    vocab = json.loads((small_checkpoint / "vocab.json").read_text())
    assert sorted(vocab.values()) == list(range(SIZES["small"].base_vocab))
    added = json.loads((small_checkpoint / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert [int(index) for index in added] == list(range(2000, 2022))
    assert not {entry["content"] for entry in added.values()} & set(vocab)


def test_added_tokens_are_the_releases_in_its_order():
    ids = added_token_ids(SIZES["full"].base_vocab)
    released = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|object_ref_start|>": 151646,
        "<|object_ref_end|>": 151647,
        "<|box_start|>": 151648,
        "<|box_end|>": 151649,
        "<|quad_start|>": 151650,
        "<|quad_end|>": 151651,
        "<|vision_start|>": 151652,
        "<|vision_end|>": 151653,
        "<|vision_pad|>": 151654,
        "<|image_pad|>": 151655,
        "<|video_pad|>": 151656,
        "<tool_call>": 151657,
        "</tool_call>": 151658,
        "<|fim_prefix|>": 151659,
        "<|fim_middle|>": 151660,
        "<|fim_suffix|>": 151661,
        "<|fim_pad|>": 151662,
        "<|repo_name|>": 151663,
        "<|file_sep|>": 151664,
    }
    assert ids == released
    assert [name for name, special in ADDED_TOKENS if special] == list(released)[:14]


def test_a_full_vocabulary_is_filled_with_words_of_its_own():
    vocab = json.loads(tokenizer_files(SIZES["full"].base_vocab)["vocab.json"])
    assert list(vocab.values()) == list(range(151_643))
