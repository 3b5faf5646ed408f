"""The gateway's options, the same for both commands that run one."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nvlm_trt.cli.given import given_arguments
from nvlm_trt.errors import MissingToolError, UsageError

if TYPE_CHECKING:
    from nvlm_trt.gateway.server import GatewayServer
    from nvlm_trt.gateway.settings import GatewaySettings, Limits

__all__ = ["GatewayChoice", "check_gateway_packages", "gateway_options", "start_gateway", "warn_of_open_door"]

F = TypeVar("F", bound=Callable[..., Any])
_KEYS = "NVLM_TRT_API_KEYS"

_OPTIONS: tuple[Callable[[F], F], ...] = (
    click.option("--model-name", default="nvlm-d", show_default=True, help="What the API calls the model."),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        help=f"A file of API keys, one a line; clients must send one. The variable {_KEYS} does the same.",
    ),
    click.option("--tls-cert", type=click.Path(path_type=Path), help="Speak HTTPS with this certificate (PEM)."),
    click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's key (PEM)."),
    click.option("--allow-origin", multiple=True, metavar="ORIGIN", help="A site whose pages may call the API."),
    click.option(
        "--allow-image-host", multiple=True, metavar="NAME", help="A host from which pictures may be fetched, by https."
    ),
    click.option("--no-page", is_flag=True, help="Leave out the web page at /."),
    click.option(
        "--limit",
        multiple=True,
        metavar="NAME=NUMBER",
        help="Change a limit; docs/gateway.md lists them. May be repeated.",
    ),
)


@dataclass(frozen=True, slots=True)
class GatewayChoice:
    """What was chosen: as settings, given a host and a port; and as arguments for another ``nvlm-trt gateway``, in
    which the keys of a client are named by their file, or not at all if the environment has them.
    """

    settings: Callable[[str, int], GatewaySettings]
    arguments: tuple[str, ...]

    def __call__(self, host: str, port: int) -> GatewaySettings:
        return self.settings(host, port)


def _names() -> frozenset[str]:
    """Of the options' parameters."""

    def command() -> None: ...

    for option in _OPTIONS:
        option(command)
    return frozenset(parameter.name for parameter in command.__click_params__)  # type: ignore[attr-defined]


def gateway_options(command: F) -> F:
    """Adds the options; the command gets a ``GatewayChoice`` as ``gateway``."""

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        model_name: str,
        api_key_file: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        allow_origin: tuple[str, ...],
        allow_image_host: tuple[str, ...],
        no_page: bool,
        limit: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        def settings(host: str, port: int) -> GatewaySettings:
            from nvlm_trt.gateway.settings import GatewaySettings
            from nvlm_trt.telemetry.settings import TelemetrySettings

            return GatewaySettings(
                host=host,
                port=port,
                model_name=model_name,
                api_keys=_keys(api_key_file),
                tls_cert=tls_cert,
                tls_key=tls_key,
                allow_origins=allow_origin,
                image_hosts=allow_image_host,
                page=not no_page,
                telemetry=TelemetrySettings.from_environment(),
                limits=_limits(limit),
            )

        return command(*args, gateway=GatewayChoice(settings, given_arguments(only=_names())), **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def start_gateway(settings: GatewaySettings, triton_url: str, drain_s: float) -> GatewayServer:
    """In a process of its own: its heap is set up for bodies.

    Raises ``MissingToolError`` E-TOOL-GATEWAY without the extra, and what ``GatewayServer`` raises.
    """
    check_gateway_packages()
    from nvlm_trt.gateway.heap import give_back_large_blocks
    from nvlm_trt.gateway.server import GatewayServer

    give_back_large_blocks()
    return GatewayServer(settings, triton_url, drain_s=drain_s)


def check_gateway_packages() -> None:
    """Without importing them. Raises ``MissingToolError`` E-TOOL-GATEWAY without the extra."""
    if any(importlib.util.find_spec(name) is None for name in ("h11", "prometheus_client", "starlette", "uvicorn")):
        raise MissingToolError(
            "E-TOOL-GATEWAY",
            "The OpenAI-compatible door is not installed.",
            "Install it: pip install 'nvlm-trt[gateway]'",
        )


def warn_of_open_door(settings: GatewaySettings) -> str | None:
    """One line, if strangers may come in."""
    if settings.host in ("127.0.0.1", "::1", "localhost") or settings.api_keys:
        return None
    return f"anybody who reaches {settings.host} may ask: there are no API keys (--api-key-file)"


def _keys(file: Path | None) -> tuple[str, ...]:
    text = os.environ.get(_KEYS, "")
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UsageError("E-USAGE-KEY", f"{file.name} cannot be read.", "Name a file of keys.") from None
        if not text.split():
            # An empty file is more likely a mistake than a wish to let everybody in.
            raise UsageError("E-USAGE-KEY", f"{file.name} holds no key.", "Write one a line: openssl rand -hex 24")
    return tuple(text.split())


def _limits(given: tuple[str, ...]) -> Limits:
    from nvlm_trt.gateway.settings import Limits

    defaults: dict[str, Any] = {limit.name: limit.default for limit in fields(Limits)}
    values: dict[str, Any] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            values[name] = type(defaults[name])(number)
        except (KeyError, ValueError):
            raise UsageError(
                "E-USAGE-LIMIT", f"{text[:60]!r} is not a limit.", f"NAME=NUMBER, of {', '.join(defaults)}."
            ) from None
    return Limits(**values)
