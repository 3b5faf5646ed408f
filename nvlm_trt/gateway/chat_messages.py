"""OpenAI's ``messages``, checked, as the ensemble's conversation and its pictures.

Pictures of a message go in front of its text, each on its own line, as the release puts them and the model was trained;
only where a message has text before and after a picture is its own order kept. ``detail`` "low" is one tile; "high" and
"auto" are as many as the model takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvlm_trt.gateway.refusal import Refusal, about
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.intake.data_uri import check_data_uri
from nvlm_trt.intake.picture_url import PictureUrl, read_picture_url
from nvlm_trt.serving.parameters import check_image_count, read_text

__all__ = ["Messages", "read_messages"]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_DETAILS: Mapping[Any, dict[str, int]] = {"low": {"max_tiles": 1}, "high": {}, "auto": {}, None: {}}
_PICTURE_KEYS = {"type", "image_url"}


@dataclass(frozen=True, slots=True)
class Messages:
    """``messages`` as ``serving.conversation`` reads them; ``pictures`` in order, data URIs or addresses."""

    messages: tuple[dict[str, Any], ...]
    pictures: tuple[str | PictureUrl, ...]


def read_messages(value: Any, settings: GatewaySettings) -> Messages:
    """Raises ``Refusal``: E-PARAM-TYPE, E-PARAM-MISSING, E-PARAM-UNSUPPORTED, E-PARAM-RANGE, E-PROMPT-*, E-IMAGE-*."""
    if not isinstance(value, list) or not value:
        raise Refusal("E-PARAM-TYPE", "messages is not a list of messages.", "Send at least one.", param="messages")
    pictures: list[str | PictureUrl] = []
    messages = []
    for number, message in enumerate(value):
        at = f"messages[{number}]"
        role, content = _members(message, at)
        if role == "system" and number:
            raise Refusal("E-PARAM-RANGE", f"{at} is a system message.", "Send it first, and one.", param=f"{at}.role")
        items = _items(role, content, f"{at}.content", pictures, settings)
        if role == "user" and all(isinstance(item, str) and not item.strip() for item in items):
            raise Refusal("E-PROMPT-EMPTY", f"{at} is empty.", "Ask something.", param=f"{at}.content")
        messages.append({"role": role, "content": _in_front(items)})
    if messages[-1]["role"] != "user":
        raise Refusal("E-PARAM-RANGE", "The last message is not the user's.", "End with a question.", param="messages")
    return Messages(tuple(messages), tuple(pictures))


def _members(message: Any, at: str) -> tuple[str, Any]:
    if not isinstance(message, dict):
        raise Refusal("E-PARAM-TYPE", f"{at} is not an object.", "Send role and content.", param=at)
    # Clients send earlier answers back whole, with all they did not hold.
    unknown = sorted(
        key for key, value in message.items() if value not in (None, []) and key not in ("role", "content")
    )
    if unknown:
        name = unknown[0][:60]
        raise Refusal("E-PARAM-UNSUPPORTED", f"{at} has {name!r}.", "Leave it out.", param=f"{at}.{name}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Refusal(
            "E-PARAM-RANGE",
            f"{at} has the role {str(role)[:60]!r}.",
            f"Use one of {', '.join(_ROLES)}.",
            param=f"{at}.role",
        )
    return _ROLES[role], message.get("content")


def _items(
    role: str, content: Any, at: str, pictures: list[str | PictureUrl], settings: GatewaySettings
) -> list[str | dict[str, int]]:
    if isinstance(content, str):
        return [_text(content, at)]
    if not isinstance(content, list) or not content:
        raise Refusal("E-PARAM-TYPE", f"{at} is neither a text nor a list of parts.", "Send one.", param=at)
    items: list[str | dict[str, int]] = []
    for number, part in enumerate(content):
        where = f"{at}[{number}]"
        match part:
            case {"type": "text", "text": str(text), **rest} if not rest:
                items.append(_text(text, where))
            case {"type": "image_url", "image_url": {"url": str(url), **options}, **rest} if role == "user":
                with about("messages"):
                    check_image_count(len(pictures) + 1, settings.limits.pictures)
                items.append(_detail({**options}, {**rest}, where))
                pictures.append(_picture(url, f"Picture {len(pictures) + 1}", where, settings))
            case _:
                raise Refusal(
                    "E-PARAM-TYPE",
                    f"{where} is not a part that is supported here.",
                    "Parts are {type: text, text} and, of a user, {type: image_url, image_url: {url, detail}}.",
                    param=where,
                )
    return items


def _detail(options: Mapping[Any, Any], rest: Mapping[Any, Any], where: str) -> dict[str, int]:
    unknown = sorted((options.keys() - {"detail"}) | rest.keys())
    if unknown:
        name = unknown[0][:60]
        raise Refusal("E-PARAM-UNSUPPORTED", f"{where} has {name!r}.", "Leave it out.", param=f"{where}.{name}")
    detail = options.get("detail")
    if not isinstance(detail, str | None) or detail not in _DETAILS:
        param = f"{where}.image_url.detail"
        raise Refusal("E-PARAM-RANGE", f"detail is {str(detail)[:60]!r}.", "Use low, high or auto.", param=param)
    return _DETAILS[detail]


def _picture(url: str, name: str, where: str, settings: GatewaySettings) -> str | PictureUrl:
    with about(f"{where}.image_url.url"):
        if url[:5].lower() != "data:":
            return read_picture_url(url, settings.image_hosts, name)
        check_data_uri(url, settings.limits.picture, name)
        return url


def _text(text: str, at: str) -> str:
    with about(at):
        return read_text("The text", text)


def _in_front(items: Sequence[str | dict[str, int]]) -> list[str | dict[str, int]]:
    kinds = [isinstance(item, str) for item in items]
    runs = sum(kind and (not number or not kinds[number - 1]) for number, kind in enumerate(kinds))
    return list(items) if runs > 1 else sorted(items, key=lambda item: isinstance(item, str))
