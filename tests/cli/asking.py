"""``nvlm-trt ask`` within this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from nvlm_trt.cli import main

__all__ = ["ask"]


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ask", *arguments], catch_exceptions=False)
