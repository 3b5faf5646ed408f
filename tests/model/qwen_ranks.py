"""Qwen's real vocabulary, from the rank file inside the ``dashscope`` package, in the release's file layout.

The rank file has no merges. A token's merge is found by running BPE on its bytes with the lower ranks only: what is
left are the two parts it is made of.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from functools import cache
from pathlib import Path

ADDED_NAMES = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
NUM_LEARNED = 151643
NUM_SPECIAL = 14  # the tool-call, fill-in-the-middle and repository names may be printed


def write_qwen_tokenizer(folder: Path) -> None:
    """``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``."""
    (folder / "vocab.json").write_text(json.dumps(qwen_vocab()), encoding="utf-8")
    lines = "".join(f"{left} {right}\n" for left, right in qwen_merges())
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    added = {
        str(NUM_LEARNED + i): {"content": name, "special": i < NUM_SPECIAL, "normalized": False}
        for i, name in enumerate(ADDED_NAMES)
    }
    config = {"added_tokens_decoder": added, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@cache
def qwen_vocab() -> dict[str, int]:
    return {_written(token): rank for token, rank in qwen_ranks().items()}


@cache
def qwen_merges() -> list[tuple[str, str]]:
    ranks = qwen_ranks()
    by_rank = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    return [tuple(map(_written, _two_parts(token, ranks))) for token in by_rank]  # type: ignore[misc]


@cache
def qwen_ranks() -> dict[bytes, int]:
    # The file is found without running the package, which imports much and is not needed.
    spec = importlib.util.find_spec("dashscope")
    assert spec is not None
    assert spec.origin is not None
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def _two_parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        candidates = ((ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1))
        rank, at = min(candidates)
        assert rank < limit
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _written(token: bytes) -> str:
    return token.decode("latin-1").translate(_VISIBLE)


_HIDDEN = [byte for byte in range(256) if not (0x21 <= byte < 0x7F or 0xA1 <= byte < 0xAD or byte >= 0xAE)]
_VISIBLE = {byte: 0x100 + i for i, byte in enumerate(_HIDDEN)}
