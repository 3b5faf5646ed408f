"""The command line: one module per command, each of which loads what it needs only when it runs."""

from __future__ import annotations

from nvlm_trt.cli.group import main

__all__ = ["main"]
