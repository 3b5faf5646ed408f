"""Turns a stream of tokens into text, in whole characters.

A token may end inside a character. The unfinished part waits, per request, until the rest has come, so the pieces
together are exactly the text decoded at once. Nothing reports here that a request was cancelled. Therefore the number
of waiting requests is bounded, and the one idle longest is forgotten.
"""

from __future__ import annotations

import codecs
from collections import OrderedDict
from collections.abc import Hashable, Iterable

from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["StreamDecoder"]

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class StreamDecoder:
    """Not thread-safe: streams keep their order only with one caller anyway."""

    def __init__(self, tokenizer: NvlmTokenizer, max_streams: int = 4096) -> None:
        self._tokenizer = tokenizer
        self._max_streams = max_streams
        self._unfinished: OrderedDict[Hashable, codecs.IncrementalDecoder] = OrderedDict()

    def push(self, key: Hashable, ids: Iterable[int]) -> str:
        """The text that ``ids`` complete in stream ``key``. Special tokens and unknown ids print nothing."""
        data = self._tokenizer.decode_bytes(ids)
        decoder = self._unfinished.pop(key, None) or _Utf8Decoder("replace")
        text = decoder.decode(data)
        if decoder.getstate()[0]:
            self._unfinished[key] = decoder
            if len(self._unfinished) > self._max_streams:
                self._unfinished.popitem(last=False)
        return text

    def finish(self, key: Hashable) -> str:
        """End a stream: U+FFFD if it stopped inside a character, else nothing. Unknown keys have nothing left."""
        decoder = self._unfinished.pop(key, None)
        return decoder.decode(b"", final=True) if decoder else ""

    @property
    def num_unfinished(self) -> int:
        return len(self._unfinished)
