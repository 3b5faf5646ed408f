"""What the gateway allows, checked once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, fields
from pathlib import Path

from nvlm_trt.errors import UsageError
from nvlm_trt.intake.picture_url import check_host
from nvlm_trt.model.picture import PictureLimits
from nvlm_trt.telemetry.settings import TelemetrySettings

__all__ = ["GatewaySettings", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Every number is from 1 up, or above 0 for seconds; raises ``UsageError`` E-USAGE-LIMIT for another.

    An answer is one choice of a request: one with ``n`` 3 counts as three of ``answers``. ``held_bytes`` bounds the
    bodies and fetched pictures of all requests that the server has not begun to answer. ``max_tokens`` is also taken
    for a request that names none, and then shrinks to what fits.
    """

    body_bytes: int = 64 * 2**20
    held_bytes: int = 512 * 2**20
    pictures: int = 16
    pixels: int = 50_000_000
    max_tokens: int = 4096
    choices: int = 8
    answers: int = 64
    waiting: int = 128
    connections: int = 1024
    head_bytes: int = 16 * 2**10
    head_s: float = 10.0
    body_s: float = 30.0
    queue_s: float = 30.0
    token_s: float = 60.0
    write_s: float = 30.0
    fetch_s: float = 10.0
    health_s: float = 5.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not value > 0:
                raise UsageError("E-USAGE-LIMIT", f"The limit {limit.name} is {value}.", "Give a number above 0.")

    @property
    def picture(self) -> PictureLimits:
        return PictureLimits(max_pixels=self.pixels)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where to listen and whom to answer. A ``port`` of 0 takes a free one; no ``api_keys`` means everybody.

    Raises ``UsageError`` E-USAGE-HOST, E-USAGE-TLS, E-USAGE-KEY.
    """

    host: str = "127.0.0.1"
    port: int = 9000
    model_name: str = "nvlm-d"
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_origins: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()
    page: bool = True
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_hosts", tuple(map(check_host, self.image_hosts)))
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("E-USAGE-TLS", "TLS needs a certificate and its key.", "Give both files, or none.")
        if self.tls_cert is not None:
            _check_tls(self.tls_cert, self.tls_key)
        if not all(key.isascii() and key.isprintable() and " " not in key and len(key) >= 16 for key in self.api_keys):
            raise UsageError(
                "E-USAGE-KEY",
                "An API key has blanks, odd characters, or fewer than 16.",
                "Make one: openssl rand -hex 24",
            )


def _check_tls(certificate: Path, key: Path | None) -> None:
    try:
        # A key under a password would be asked about on the terminal; there is nobody to answer.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        what = "The TLS certificate or its key cannot be read."
        raise UsageError(
            "E-USAGE-TLS", what, "Give PEM files that belong together, the key without a password."
        ) from None
