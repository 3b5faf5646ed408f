"""Tokenizer files in Qwen2's layout: ``vocab.json``, ``merges.txt``, ``tokenizer_config.json``.

Ids run as in the release: 256 bytes, merged tokens, then 22 added tokens in the release's order directly behind. Where
more base entries are asked for than the words give, pseudo-words fill up: they decode to text, no merge leads to them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from nvlm_trt.checkpoint.synthetic.bpe import BytePairs
from nvlm_trt.checkpoint.synthetic.words import MARKUP, WORDS
from nvlm_trt.errors import UsageError

__all__ = ["ADDED_TOKENS", "added_token_ids", "tokenizer_files"]

# Name and whether it is special; the order is the release's, whose ids run from 151643 to 151664.
ADDED_TOKENS: tuple[tuple[str, bool], ...] = (
    *((f"<|{name}|>", True) for name in ("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end")),
    *((f"<|{name}|>", True) for name in ("box_start", "box_end", "quad_start", "quad_end")),
    *((f"<|{name}|>", True) for name in ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")),
    *((name, False) for name in ("<tool_call>", "</tool_call>")),
    *((f"<|{name}|>", False) for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad")),
    *((f"<|{name}|>", False) for name in ("repo_name", "file_sep")),
)

# A plain ChatML turn, one after the other.
_CHAT_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def added_token_ids(base_vocab: int) -> dict[str, int]:
    return {name: base_vocab + index for index, (name, _) in enumerate(ADDED_TOKENS)}


def tokenizer_files(base_vocab: int) -> dict[str, str]:
    """File name to content. Raises ``UsageError`` E-USAGE-SIZE where the words need more than ``base_vocab`` ids."""
    pairs = BytePairs((*MARKUP, *WORDS))
    if base_vocab < len(pairs.tokens):
        raise UsageError("E-USAGE-SIZE", f"base_vocab is {base_vocab}; at least {len(pairs.tokens)} is wanted.")
    known = set(pairs.tokens)
    fillers = (word for word in map(pairs.spell, _pseudo_words()) if word not in known)
    tokens = [*pairs.tokens, *itertools.islice(fillers, base_vocab - len(pairs.tokens))]
    return {
        "merges.txt": "".join(f"{left} {right}\n" for left, right in pairs.merges),
        "tokenizer_config.json": json.dumps(_tokenizer_config(base_vocab), indent=2, ensure_ascii=False) + "\n",
        "vocab.json": json.dumps({token: index for index, token in enumerate(tokens)}, ensure_ascii=False) + "\n",
    }


def _pseudo_words() -> Iterator[str]:
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    for length in itertools.count(2):
        for parts in itertools.product(syllables, repeat=length):
            yield " " + "".join(parts)


def _tokenizer_config(base_vocab: int) -> dict[str, Any]:
    ids = added_token_ids(base_vocab)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(ids[name]): {"content": name, **flags, "special": special} for name, special in ADDED_TOKENS
        },
        "additional_special_tokens": [name for name, special in ADDED_TOKENS[1:] if special],
        "bos_token": None,
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
