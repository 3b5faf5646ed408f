"""A chat completion's parameters, checked once.

Ranges are the ensemble's own. What OpenAI's API has and this model has not is refused by name, except with the value
that asks for nothing; a parameter that is accepted and ignored would be a lie about the answer.

By default an answer is greedy, as the release's is. A ``temperature`` or ``top_p`` samples, even 1, which the ensemble
alone would treat as not set. A sampled answer without a ``seed`` is drawn anew each time.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nvlm_trt.embedded.request import Sampling
from nvlm_trt.gateway.chat_messages import Messages, read_messages
from nvlm_trt.gateway.refusal import Refusal, about, no_such_model
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.intake.picture_url import PictureUrl
from nvlm_trt.serving.parameters import read_words

__all__ = ["ChatRequest", "read_chat_request"]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """``sampling`` and ``max_tokens`` are inputs of the ensemble by name; ``fit`` says that nobody named max_tokens."""

    messages: Messages
    max_tokens: int
    fit: bool
    n: int
    seed: int
    stream: bool
    include_usage: bool
    log_probs: bool
    stop: tuple[str, ...]
    max_pixels: int
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[str | PictureUrl, ...]:
        return self.messages.pictures

    def without_messages(self) -> ChatRequest:
        """The part that is needed while the request is answered."""
        return replace(self, messages=Messages((), ()))

    @property
    def ensemble_streams(self) -> bool:
        """Token by token even where the client wants the whole answer, if somebody has to look at each token."""
        return self.stream or self.log_probs or bool(self.stop)

    def ensemble_inputs(self, choice: int, uris: list[str]) -> dict[str, Any]:
        """For one of the ``n`` choices; ``uris`` are all pictures as data URIs."""
        talk = {"messages": self.messages.messages, "fit": self.fit, "max_pixels": self.max_pixels}
        return {
            "text_input": "",
            "conversation": json.dumps(talk),
            "max_tokens": self.max_tokens,
            "stream": self.ensemble_streams,
            "seed": (self.seed + choice) % 2**64,
            **self.inputs,
            **({"return_log_probs": True} if self.log_probs else {}),
            **({"image_url_input": uris} if uris else {}),
        }


def read_chat_request(body: Any, settings: GatewaySettings) -> ChatRequest:
    """``body`` is parsed JSON. Raises ``Refusal`` and what ``read_messages`` does."""
    if not isinstance(body, dict):
        raise Refusal("E-PARAM-TYPE", "The body is not an object.", "Send model and messages.")
    given = {name: value for name, value in body.items() if value is not None}
    for name in sorted(given.keys() - _READ):
        _refuse_unsupported(name, given[name])
    for name in ("model", "messages"):
        if name not in given:
            raise Refusal("E-PARAM-MISSING", f"{name} is missing.", "Every request needs it.", param=name)
    if given["model"] != settings.model_name:
        raise no_such_model(settings.model_name)
    limits = settings.limits
    stream, n = _flag(given, "stream"), _integer(given, "n", 1, limits.choices) or 1
    max_tokens = _max_tokens(given, limits.max_tokens)
    inputs = _inputs(given, max_tokens or limits.max_tokens)
    if n > 1 and inputs.get("top_k", 1) == 1:
        raise Refusal("E-PARAM-RANGE", f"n is {n} and all answers would be the same.", "Set a temperature.", param="n")
    seed = _integer(given, "seed", -(2**63), 2**64 - 1)
    return ChatRequest(
        messages=read_messages(given["messages"], settings),
        max_tokens=max_tokens or limits.max_tokens,
        fit=max_tokens is None,
        n=n,
        seed=secrets.randbits(63) if seed is None else seed,
        stream=stream,
        include_usage=_include_usage(given.get("stream_options"), stream),
        log_probs=_log_probs(given),
        stop=_stop(given.get("stop", [])),
        max_pixels=limits.pixels,
        inputs=inputs,
    )


def _max_tokens(given: Mapping[str, Any], most: int) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in given]
    values = {_integer(given, name, 1, most) for name in names}
    if len(values) > 1:
        raise Refusal("E-PARAM-RANGE", "max_tokens and max_completion_tokens differ.", "Send one.", param="max_tokens")
    return values.pop() if values else None


def _inputs(given: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name in _SAMPLING:
        if name in given:
            with about(name):
                inputs[name] = _number(name, given[name]) if name != "top_k" else _integer(given, name, 0, 2**31 - 1)
                Sampling(**{name: inputs[name]})
    if inputs.get("temperature") == 0 or inputs.get("top_p") == 0:
        inputs["top_k"] = 1
    elif "temperature" in inputs or "top_p" in inputs:
        inputs.setdefault("top_k", 0)
    min_tokens = _integer(given, "min_tokens", 0, max_tokens)
    if min_tokens:
        inputs["min_tokens"] = min_tokens
    if _flag(given, "ignore_eos"):
        inputs["end_id"] = -1
    return inputs


def _log_probs(given: Mapping[str, Any]) -> bool:
    if _integer(given, "top_logprobs", 0, 20):
        what = "'top_logprobs' is not offered: the decoder gives the chosen token's alone."
        raise Refusal("E-PARAM-UNSUPPORTED", what, "Leave it out.", param="top_logprobs")
    return _flag(given, "logprobs")


def _include_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict) or not stream:
        what = "stream_options is an object, and only of a request that streams."
        raise Refusal("E-PARAM-TYPE", what, "Leave it out.", param="stream_options")
    unknown = sorted(key for key in options if key != "include_usage")
    if unknown:
        name = f"stream_options.{unknown[0][:60]}"
        raise Refusal("E-PARAM-UNSUPPORTED", f"{name!r} is not offered.", "Leave it out.", param=name)
    return _flag(options, "include_usage")


def _stop(value: Any) -> tuple[str, ...]:
    with about("stop"):
        return read_words("stop", value)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if not isinstance(value, bool | None):
        raise _wrong_type(name, value, "true or false")
    return bool(value)


def _integer(given: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise _wrong_type(name, value, "a whole number")
    if not low <= value <= high:
        seen = value if abs(value) < 10**20 else "a number of too many digits"
        raise Refusal("E-PARAM-RANGE", f"{name} is {seen}; {low} to {high} is allowed.", "Correct it.", param=name)
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise _wrong_type(name, value, "a number")
    return float(value) if abs(value) < 1e300 else float("inf")


def _wrong_type(name: str, value: Any, wanted: str) -> Refusal:
    what = f"{name} is of type {type(value).__name__}; {wanted} is wanted."
    return Refusal("E-PARAM-TYPE", what, "Correct its type.", param=name)


def _refuse_unsupported(name: str, value: Any) -> None:
    accepts, why = _NOT_OFFERED.get(name, (lambda _: False, "is not a parameter of this server"))
    if not accepts(value):
        raise Refusal("E-PARAM-UNSUPPORTED", f"{name[:60]!r} {why}.", "Leave it out.", param=name[:60])


_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_READ = frozenset(
    {"model", "messages", "stream", "stream_options", "stop", "max_tokens", "max_completion_tokens", "seed", "logprobs"}
    | {"top_logprobs", "n", "min_tokens", "ignore_eos", *_SAMPLING}
)


def _is(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(one) and value == one for one in neutral)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_TOOLS = "is not offered: the model calls no tools"
_NOT_OFFERED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "tools": (_is([]), _TOOLS),
    "tool_choice": (_is("none", "auto"), _TOOLS),
    "parallel_tool_calls": (_is(True, False), _TOOLS),
    "functions": (_is([]), _TOOLS),
    "function_call": (_is("none", "auto"), _TOOLS),
    "response_format": (_is({"type": "text"}), "is not offered: answers are plain text"),
    "logit_bias": (_is({}), "is not offered: the decoder takes no biases"),
    "modalities": (_is(["text"]), "is text alone"),
    "store": (_is(False), "is not offered: nothing is kept"),
    "service_tier": (_is("auto", "default"), "is not offered: there is one"),
    # Who asks is the client's own affair, and says nothing about the answer.
    "user": (_is_text, "is a text"),
    "safety_identifier": (_is_text, "is a text"),
    "prompt_cache_key": (_is_text, "is a text"),
}
