"""A byte-level BPE vocabulary that gives chosen texts chosen tokens, made without a trainer.

Words are added one at a time: the word is cut by the merges so far, and its pieces are then joined from the left, each
join a new merge of lowest priority. BPE always applies the merge of highest priority first, so a later merge can never
change how an earlier word is cut: every word added is one token for good, and a text that is never added stays cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

__all__ = ["BytePairs", "byte_symbols"]


def byte_symbols() -> dict[int, str]:
    """Byte to symbol in GPT-2's vocabulary order: printable Latin-1 stands for itself, the rest from U+0100 up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in symbols):
        symbols[byte] = chr(0x100 + shift)
    return symbols


class BytePairs:
    """``tokens`` in id order, ``merges`` in order of priority; both in byte symbols."""

    def __init__(self, words: Iterable[str]) -> None:
        self._symbols = byte_symbols()
        self.tokens = list(self._symbols.values())
        self.merges: list[tuple[str, str]] = []
        self._ranks: dict[tuple[str, str], int] = {}
        for word in words:
            self._add(word)

    def spell(self, text: str) -> str:
        return "".join(self._symbols[byte] for byte in text.encode())

    def _add(self, word: str) -> None:
        pieces = self._cut(list(self.spell(word)))
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            self._ranks[pair] = len(self.merges)
            self.merges.append(pair)
            self.tokens.append("".join(pair))
            pieces = self._cut(pieces)

    def _cut(self, pieces: list[str]) -> list[str]:
        """Apply the merges so far to one word, highest priority first."""
        while True:
            pairs = enumerate(itertools.pairwise(pieces))
            ranked = [(self._ranks[pair], at) for at, pair in pairs if pair in self._ranks]
            if not ranked:
                return pieces
            _, at = min(ranked)
            pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
