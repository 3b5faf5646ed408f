"""URL-or-DIR: a server that runs, or a deployment that one is started for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nvlm_trt.errors import UsageError

if TYPE_CHECKING:
    from nvlm_trt.pipeline.deployment import Deployment

__all__ = ["deployment_at"]


def deployment_at(target: str, checkpoint: Path | None) -> Deployment | None:
    """The deployment, or None for a URL.

    Raises ``UsageError`` E-USAGE-URL for a HOST:PORT without its beginning, and what ``open_deployment`` does.
    """
    if "://" in target:
        return None
    folder = Path(target)
    if ":" in target and not folder.exists():
        what = f"{target!r} is neither a folder nor a URL."
        raise UsageError("E-USAGE-URL", what, "A URL begins with grpc:// or http://, as in grpc://HOST:PORT.")
    from nvlm_trt.pipeline.deployment import open_deployment

    return open_deployment(folder, checkpoint)
