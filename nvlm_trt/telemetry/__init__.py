"""What each part of a running server tells of a request: a line in a log, a span of its trace. Both are off by default.

See docs/tracing.md.
"""

from __future__ import annotations

__all__: list[str] = []
