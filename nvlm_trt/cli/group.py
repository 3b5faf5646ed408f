"""The command tree and what becomes of errors.

A user's mistake is one line on stderr and the exit code of its family. A bug shows its traceback. Ctrl-C exits
with 130.
"""

from __future__ import annotations

from typing import Any

import click

import nvlm_trt
from nvlm_trt.cli.ask import ask
from nvlm_trt.cli.build import build
from nvlm_trt.cli.doctor import doctor
from nvlm_trt.cli.eval import evaluate
from nvlm_trt.cli.explain import explain
from nvlm_trt.cli.gateway import gateway
from nvlm_trt.cli.inspect import inspect
from nvlm_trt.cli.plan import plan
from nvlm_trt.cli.report import report
from nvlm_trt.cli.serve import serve
from nvlm_trt.cli.verify import verify
from nvlm_trt.errors import NvlmError

__all__ = ["main"]

_INTERRUPTED = 130


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NvlmError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use, as they were added."""
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(nvlm_trt.__version__, prog_name="nvlm-trt")
def main() -> None:
    """From an NVLM-D checkpoint to an answer from a Triton server."""


for _command in (doctor, inspect, plan, build, verify, explain, serve, gateway, ask, evaluate, report):
    main.add_command(_command)
