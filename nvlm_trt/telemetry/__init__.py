"""What each part of a running server records of a request, in a log and in traces. Both are off by default.

See docs/tracing.md.
"""

from __future__ import annotations

__all__: list[str] = []
