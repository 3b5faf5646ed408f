"""What a client asked for, checked once: names, types, ranges, and every default made explicit.

Names are those that Triton's clients for language models already send. A name we cannot honour is refused, unless its
value means "nothing special" (``beam_width`` 1): a parameter that is accepted and ignored would be a lie about the
answer.

Sampling is greedy by default. A ``temperature`` or ``top_p`` of 0 means greedy, as in other servers; any other value
but the neutral 1, without a ``top_k``, means sampling from all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nvlm_trt.embedded.request import Sampling
from nvlm_trt.errors import RequestError
from nvlm_trt.model.picture import PictureLimits, read_data_uri
from nvlm_trt.serving.conversation import Conversation, read_conversation

__all__ = [
    "SUPPORTED",
    "UNSUPPORTED",
    "RequestFields",
    "check_image_count",
    "read_text",
    "read_words",
    "refuse_unsupported",
]

_MAX_INT32 = 2**31 - 1
_MAX_WORDS = 64
_MAX_WORD_BYTES = 512


@dataclass(frozen=True, slots=True)
class RequestFields:
    """A request whose parts are each valid; the preprocessor judges whether they fit this model.

    ``images`` are encoded files. ``end_id`` and ``pad_id`` None stand for the tokenizer's own, ``end_id`` -1 for none.
    A ``conversation`` replaces ``text_input``, which is then empty.
    """

    text_input: str
    max_tokens: int
    images: tuple[bytes, ...] = ()
    conversation: Conversation | None = None
    stop_words: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    end_id: int | None = None
    pad_id: int | None = None
    min_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    stream: bool = False
    return_log_probs: bool = False

    def __post_init__(self) -> None:
        _check_range("max_tokens", self.max_tokens, 1, _MAX_INT32)
        _check_range("min_tokens", self.min_tokens, 0, self.max_tokens)
        _check_range("end_id", self.end_id, -1, _MAX_INT32)
        _check_range("pad_id", self.pad_id, 0, _MAX_INT32)
        if self.conversation is not None and self.text_input:
            raise RequestError(
                "E-PROMPT-CONVERSATION", "Both text_input and a conversation were sent.", "Send an empty text_input."
            )
        if self.conversation is not None and len(self.conversation.max_tiles) != len(self.images):
            raise RequestError(
                "E-PROMPT-IMAGES",
                f"The conversation has {len(self.conversation.max_tiles)} pictures and the request {len(self.images)}.",
                "Send one in image_url_input for each object in the messages' content.",
            )

    @classmethod
    def from_client(
        cls, values: Mapping[str, Any], *, max_images: int, picture_limits: PictureLimits | None = None
    ) -> RequestFields:
        """Read values as they arrive: Python scalars, byte strings, lists, or numpy arrays of them.

        An absent parameter and one whose value is None are the same. Empty stop and bad words, which some clients send
        for "none", are left out.

        Raises ``RequestError``: E-PARAM-MISSING, E-PARAM-TYPE, E-PARAM-RANGE, E-PARAM-WORDS, E-PARAM-UNSUPPORTED,
        E-PROMPT-UTF8, E-PROMPT-IMAGES, E-IMAGE-COUNT, and those of ``read_data_uri`` and ``read_conversation``.
        """
        given = {name: value for name, value in values.items() if value is not None}
        for name in sorted(given.keys() - SUPPORTED):
            refuse_unsupported(name, given[name])
        for name in ("text_input", "max_tokens"):
            if name not in given:
                raise RequestError("E-PARAM-MISSING", f"{name} is missing.", "Every request needs it.")
        uris = _items(given.get("image_url_input", ()))
        check_image_count(len(uris), max_images)
        limits = picture_limits or PictureLimits()
        read, sampling = (
            {name: reader(name, given[name]) for name, reader in readers.items() if name in given}
            for readers in (_READERS, _SAMPLING)
        )
        return cls(
            images=tuple(read_data_uri(_uri(uri), limits, f"Picture {n}") for n, uri in enumerate(uris, 1)),
            sampling=_sampling(sampling),
            **read,
        )


def check_image_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise RequestError(
            "E-IMAGE-COUNT", f"The request has {count} pictures; at most {max_images} are read.", "Send fewer."
        )


def refuse_unsupported(name: str, value: Any) -> None:
    """Raise ``RequestError`` E-PARAM-UNSUPPORTED unless ``value`` is one with which ``name`` changes nothing."""
    neutral, why = UNSUPPORTED.get(name, ((), "is not a parameter of this model"))
    # Arrays are looked into only if that is cheap: a video may come here.
    items = _items(value) if not isinstance(value, np.ndarray) or value.size == 1 else []
    if len(items) != 1 or items[0] not in neutral:
        raise RequestError("E-PARAM-UNSUPPORTED", f"{name[:60]!r} {why}.", "Leave it out.")


def _sampling(read: dict[str, Any]) -> Sampling:
    neutral = Sampling()
    temperature, top_p = read.get("temperature", neutral.temperature), read.get("top_p", neutral.top_p)
    if "top_k" not in read and (temperature != neutral.temperature or top_p != neutral.top_p):
        read["top_k"] = 0
    # Checked as it came; the greedy form that both decoders understand is put in its place afterwards.
    sampling = Sampling(**read)
    if temperature == 0 or top_p == 0:
        return Sampling(**{**read, "temperature": neutral.temperature, "top_k": 1, "top_p": neutral.top_p})
    return sampling


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise RequestError(
            "E-PARAM-RANGE", f"{name} is {value}; {low} to {high} is allowed.", "Correct the value and send again."
        )


def _items(value: Any) -> list[Any]:
    """A value of any of these forms as a list of Python values."""
    if isinstance(value, np.ndarray):
        # A float32 is meant as its shortest decimal: 0.7, not 0.699999988.
        return [float(str(item)) for item in value.ravel()] if value.dtype == np.float32 else value.ravel().tolist()
    if isinstance(value, np.generic):
        return _items(np.array(value))
    return list(value) if isinstance(value, list | tuple) else [value]


def _one(name: str, value: Any, wanted: str, accepts: tuple[type, ...]) -> Any:
    items = _items(value)
    if len(items) != 1:
        raise RequestError("E-PARAM-TYPE", f"{name} has {len(items)} values; one is wanted.", "Send one.")
    if not isinstance(items[0], accepts) or (isinstance(items[0], bool) and bool not in accepts):
        raise RequestError(
            "E-PARAM-TYPE", f"{name} is of type {type(items[0]).__name__}; {wanted} is wanted.", "Correct its type."
        )
    return items[0]


def _integer(name: str, value: Any) -> int:
    return int(_one(name, value, "a whole number", (int,)))


def _number(name: str, value: Any) -> float:
    number = _one(name, value, "a number", (int, float))
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _flag(name: str, value: Any) -> bool:
    return bool(_one(name, value, "true or false", (bool,)))


def read_text(name: str, value: Any) -> str:
    """Raises ``RequestError`` E-PARAM-TYPE, E-PROMPT-UTF8."""
    text = _one(name, value, "a text", (str, bytes))
    try:
        # Encoding finds lone surrogates, which Python's str may hold and UTF-8 may not.
        return text.decode() if isinstance(text, bytes) else text.encode().decode()
    except UnicodeError:
        raise RequestError("E-PROMPT-UTF8", f"{name} is not valid UTF-8.", "Send it encoded as UTF-8.") from None


def read_words(name: str, value: Any) -> tuple[str, ...]:
    """Raises ``RequestError`` E-PARAM-TYPE, E-PROMPT-UTF8, E-PARAM-WORDS."""
    words = tuple(word for word in (read_text(name, item) for item in _items(value)) if word)
    longest = max((len(word.encode()) for word in words), default=0)
    if len(words) > _MAX_WORDS or longest > _MAX_WORD_BYTES:
        raise RequestError(
            "E-PARAM-WORDS",
            f"{name} has {len(words)} words, the longest of {longest} bytes; {_MAX_WORDS} words of at most "
            f"{_MAX_WORD_BYTES} bytes are allowed.",
            "Send fewer or shorter ones.",
        )
    return words


def _uri(item: Any) -> str | bytes:
    uri: str | bytes = _one("image_url_input", item, "a text", (str, bytes))
    return uri


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "text_input": read_text,
    "max_tokens": _integer,
    "min_tokens": _integer,
    "end_id": _integer,
    "pad_id": _integer,
    "stop_words": read_words,
    "bad_words": read_words,
    "conversation": lambda name, value: read_conversation(read_text(name, value).encode()),
    "stream": _flag,
    "return_log_probs": _flag,
}
_SAMPLING: Mapping[str, Callable[[str, Any], Any]] = {
    "temperature": _number,
    "top_k": _integer,
    "top_p": _number,
    "seed": _integer,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
}

SUPPORTED = frozenset({*_READERS, *_SAMPLING, "image_url_input"})
"""Client names that are honoured."""

_BEAMS = "needs beam search, which is not offered"
_LOGITS = "is not offered: logits stay in the engine"
_COUNTS = "is not offered: timings are in the metrics"
_ALWAYS = "is true or false: every response counts its tokens either way"
_TABLE = "is made by the server from the pictures"
_BIAS, _LORA, _GUIDED = "is not offered: biases", "is not offered: adapters", "is not offered: guided decoding"
_PIXELS = "is not read: pictures are sent as data URIs in image_url_input"

UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "beam_width": ((1,), _BEAMS),
    "length_penalty": ((0, 1), _BEAMS),
    "num_return_sequences": ((1,), "is not offered: one answer a request"),
    "decoder_text_input": (("", b""), "belongs to encoder-decoder models"),
    "exclude_input_in_output": ((True,), "cannot be off: the prompt holds image rows, which are not text"),
    "return_context_logits": ((False,), _LOGITS),
    "return_generation_logits": ((False,), _LOGITS),
    "return_perf_metrics": ((False,), _COUNTS),
    "return_num_input_tokens": ((False, True), _ALWAYS),
    "return_num_output_tokens": ((False, True), _ALWAYS),
    "prompt_embedding_table": ((), _TABLE),
    "prompt_table_extra_id": ((), _TABLE),
    "prompt_vocab_size": ((), _TABLE),
    "embedding_bias_words": (("", b""), _BIAS),
    "embedding_bias_weights": ((), _BIAS),
    "lora_task_id": ((), _LORA),
    "lora_weights": ((), _LORA),
    "lora_config": ((), _LORA),
    "guided_decoding_guide_type": ((), _GUIDED),
    "guided_decoding_guide": ((), _GUIDED),
    "image_input": ((), _PIXELS),
    "image_bytes_input": ((), _PIXELS),
    "image_sizes_input": ((), _PIXELS),
    "video_bytes_input": ((), "is not read: NVLM-D has no video"),
}
"""Upstream's client names that are not: the values with which they change nothing, and why they are refused."""
