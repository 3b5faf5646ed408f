"""Qwen2's byte-level BPE, split in two so that no text can become control.

The release's tokenizer holds two vocabularies: ranked byte sequences, learned, and 22 added tokens (``<|im_end|>``,
``<|vision_pad|>``, ...) that steer the model. Used as one, a user who types ``<|im_end|>`` ends their turn and can
write the assistant's. Here ``encode_text`` knows only the learned part, and only our code reaches added tokens, by
name. For text without such names both forms give the same ids.

Files: ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json`` as in the release, or ``tokenizer.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from nvlm_trt.errors import CheckpointError
from nvlm_trt.model.json_file import read_json_object

__all__ = ["AddedToken", "NvlmTokenizer"]

# Where Qwen2 cuts text before merging; part of the published tokenizer.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_EOS, _PAD = "<|im_end|>", "<|endoftext|>"

Merge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside the learned vocabulary. ``special`` ones are never printed."""

    id: int
    name: str
    special: bool


class NvlmTokenizer:
    """Text to ids and ids to bytes. Immutable and safe to share between threads."""

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[Merge],
        added: Sequence[AddedToken],
        eos: str = _EOS,
        pad: str = _PAD,
    ) -> None:
        """``vocab`` maps tokens, written in the byte alphabet of GPT-2, to ids.

        Raises ``CheckpointError``: E-TOKENIZER-BYTES if a byte has no token (text would be lost without a word),
        E-TOKENIZER-MERGES for a merge of unknown tokens, E-TOKENIZER-IDS if an id is given twice,
        E-TOKENIZER-SPECIAL if ``eos`` or ``pad`` is unknown.
        """
        self._added = {token.name: token for token in added}
        learned = {token: id for token, id in vocab.items() if token not in self._added}
        _check_vocab(vocab, learned, merges, added)
        self._bpe = Tokenizer(BPE(vocab=learned, merges=list(merges)))
        self._bpe.normalizer = normalizers.NFC()
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._bytes = {id: bytes(map(_BYTE_OF_CHAR.__getitem__, token)) for token, id in learned.items()}
        self._bytes |= {token.id: b"" if token.special else token.name.encode() for token in added}
        self.vocab_len = max(self._bytes) + 1
        self.eos_id = self.special_id(eos)
        self.pad_id = self.special_id(pad)

    @classmethod
    def from_folder(cls, folder: Path) -> NvlmTokenizer:
        """Read a checkpoint's own tokenizer files.

        Raises ``CheckpointError``: E-TOKENIZER-MISSING, E-TOKENIZER-FORMAT, E-TOKENIZER-KIND (another kind of
        tokenizer), and those of the constructor.
        """
        config = {}
        if (folder / "vocab.json").exists() or not (folder / "tokenizer.json").exists():
            config = read_json_object(folder / "tokenizer_config.json", "TOKENIZER")
            vocab = read_json_object(folder / "vocab.json", "TOKENIZER")
            merges = _read_merges(folder / "merges.txt")
            listed = _object(config, "added_tokens_decoder", "tokenizer_config.json")
            added = [_added_token(id, entry) for id, entry in listed.items()]
        else:
            whole = read_json_object(folder / "tokenizer.json", "TOKENIZER")
            if (folder / "tokenizer_config.json").exists():
                config = read_json_object(folder / "tokenizer_config.json", "TOKENIZER")
            vocab, merges, added = _read_whole(whole)
        if not all(type(id) is int and 0 <= id < 2**31 for id in vocab.values()):
            raise _odd("The vocabulary has an id that is not a whole number.")
        return cls(vocab, merges, added, _name_of(config, "eos_token", _EOS), _name_of(config, "pad_token", _PAD))

    def encode_text(self, text: str) -> list[int]:
        """Ids of ``text``, never one of an added token. ``text`` must be encodable as UTF-8."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def special_id(self, name: str) -> int:
        """Raises ``CheckpointError`` E-TOKENIZER-SPECIAL if the checkpoint's tokenizer has no such token."""
        if name not in self._added:
            raise CheckpointError(
                "E-TOKENIZER-SPECIAL",
                f"The tokenizer has no token {name!r}.",
                "Copy the tokenizer's files from the release.",
            )
        return self._added[name].id

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """What ``ids`` print, as bytes, because a token may end inside a character.

        Special tokens, and ids that no token has (the decoder's rows are padded beyond the vocabulary), print nothing.
        """
        return b"".join(self._bytes.get(int(id), b"") for id in ids)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet for bytes: printable Latin-1 as itself, the others from U+0100 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_alphabet()


def _check_vocab(
    vocab: Mapping[str, int], learned: Mapping[str, int], merges: Sequence[Merge], added: Sequence[AddedToken]
) -> None:
    missing = [byte for char, byte in _BYTE_OF_CHAR.items() if char not in learned]
    if missing:
        raise CheckpointError(
            "E-TOKENIZER-BYTES",
            f"The vocabulary has no token for {len(missing)} of the 256 bytes, the first is 0x{min(missing):02x}.",
            "Only byte-level BPE vocabularies can be read; copy vocab.json from the release.",
        )
    for token in learned:
        if not _BYTE_OF_CHAR.keys() >= set(token):
            raise _odd(f"The vocabulary's token {token[:40]!r} is not written in the byte alphabet.")
    for left, right in merges:
        if left not in learned or right not in learned or left + right not in learned:
            raise CheckpointError(
                "E-TOKENIZER-MERGES",
                f"The merge of {left[:40]!r} and {right[:40]!r} names or makes a token that the vocabulary lacks.",
                "Copy vocab.json and merges.txt from the same release.",
            )
    ids = [*learned.values(), *(token.id for token in added)]
    moved = [token.name for token in added if vocab.get(token.name, token.id) != token.id]
    if len(set(ids)) != len(ids) or moved:
        raise CheckpointError(
            "E-TOKENIZER-IDS",
            f"An id is given to two tokens, or a token has two ids ({moved[0] if moved else 'see vocab.json'}).",
            "Copy the tokenizer's files from the same release.",
        )


def _read_merges(path: Path) -> list[Merge]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise CheckpointError(
            "E-TOKENIZER-MISSING", f"The model folder has no {path.name}.", "Copy it from the release."
        ) from None
    except (OSError, UnicodeDecodeError):
        raise _odd(f"{path.name} cannot be read as UTF-8 text.") from None
    return [
        _merge(line.split(" "))
        for number, line in enumerate(lines)
        if line and not (number == 0 and line.startswith("#version"))
    ]


def _read_whole(data: Mapping[str, Any]) -> tuple[dict[str, int], list[Merge], list[AddedToken]]:
    model = _object(data, "model", "tokenizer.json")
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or model.get("unk_token"):
        raise CheckpointError(
            "E-TOKENIZER-KIND", "tokenizer.json is not a byte-level BPE.", "NVLM-D's tokenizer is Qwen2's."
        )
    merges, added = model.get("merges"), data.get("added_tokens")
    if not isinstance(merges, list) or not isinstance(added, list):
        raise _odd("tokenizer.json lacks its merges or its added_tokens.")
    return (
        dict(_object(model, "vocab", "tokenizer.json")),
        [_merge(entry.split(" ") if isinstance(entry, str) else entry) for entry in merges],
        [_added_token(entry.get("id") if isinstance(entry, dict) else None, entry) for entry in added],
    )


def _merge(parts: Any) -> Merge:
    match parts:
        case [str(left), str(right)] if left and right:
            return left, right
    raise _odd(f"A merge is not two tokens: {str(parts)[:40]!r}.")


def _added_token(id: Any, entry: Any) -> AddedToken:
    match entry:
        case {"content": str(name), "special": bool(special)} if name and str(id).isdecimal() and len(str(id)) < 10:
            return AddedToken(int(id), name, special)
    raise _odd("An added token lacks its id, its content or whether it is special.")


def _name_of(config: Mapping[str, Any], key: str, default: str) -> str:
    match config.get(key):
        case None:
            return default
        case str(name) | {"content": str(name)}:
            return name
    raise _odd(f"tokenizer_config.json: {key} is not the name of a token.")


def _object(data: Mapping[str, Any], key: str, file: str) -> dict[str, Any]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise _odd(f"{file} has no object {key}.")
    return value


def _odd(what: str) -> CheckpointError:
    return CheckpointError("E-TOKENIZER-FORMAT", what, "Copy the tokenizer's files from the release again.")
