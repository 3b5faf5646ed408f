"""``nvlm-trt ask``."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvlm_trt.cli.output import Output, output_options

if TYPE_CHECKING:
    from nvlm_trt.client.answer import Answer, PromptFacts
    from nvlm_trt.client.grpc_client import GrpcClient
    from nvlm_trt.client.http_client import HttpClient

__all__ = ["ask"]

# A terminal obeys control characters, and a model may say anything.
_HARMLESS = {code: 0xFFFD for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (0x09, 0x0A)}


@click.command()
@click.argument("target", metavar="URL-or-DIR")
@click.argument("question")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A picture; may be repeated.",
)
@click.option("--stream", is_flag=True, help="Print the answer as it arrives.")
@click.option(
    "--protocol", type=click.Choice(["grpc", "http"]), help="For a DIR, by default grpc; a URL names its own."
)
@click.option("--max-tokens", type=int, default=64, show_default=True, help="The most tokens of the answer.")
@click.option("--temperature", type=float, help="0.01 and up; together with --top-k or --top-p.")
@click.option("--top-k", type=int, help="1 is greedy, 0 no limit.")
@click.option("--top-p", type=float, help="0 to 1; 1 is no limit.")
@click.option("--seed", type=int, help="Seed of the sampling.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For a DIR: where its checkpoint lies now.")
@output_options
def ask(
    target: str,
    question: str,
    images: tuple[Path, ...],
    stream: bool,
    protocol: str | None,
    max_tokens: int,
    checkpoint: Path | None,
    output: Output,
    **sampling: float | None,
) -> None:
    """Ask QUESTION about pictures, of a server at a URL or of the deployment in DIR.

    A URL is http://HOST:PORT, or grpc://HOST:PORT. With a DIR a server is started for this one question and stopped
    after it. The answer is on stdout; picture sizes, tile grids, token counts and times are on stderr, or all of it in
    the JSON.
    """
    from nvlm_trt.client.options import AskOptions

    options = AskOptions(max_tokens=max_tokens, stream=stream or protocol != "http", **sampling)  # type: ignore[arg-type]
    pictures = [_read(image) for image in images]
    with _client(target, protocol, checkpoint, output) as client:
        facts = client.measure(question, pictures)
        for name, size, grid in zip(images, facts.image_sizes, facts.tile_grids, strict=True):
            output.note(f"{name.name}: {size[0]} x {size[1]} pixels, tile grid {grid[0]} x {grid[1]}")
        with client.stream(question, pictures, options) as chunks:
            for chunk in chunks if stream and not output.as_json else ():
                click.echo(_shown(chunk.text), nl=False)
            answer = chunks.finish()
    text = "" if stream else _shown(answer.text)
    output.result(_json(facts, answer, images), text)
    output.note(
        f"{facts.input_tokens} tokens in, {answer.output_tokens} out, first after "
        f"{answer.time_to_first_token_s * 1000:.0f} ms, all after {answer.total_s * 1000:.0f} ms"
    )


@contextlib.contextmanager
def _client(
    target: str, protocol: str | None, checkpoint: Path | None, output: Output
) -> Iterator[GrpcClient | HttpClient]:
    from nvlm_trt.client.grpc_client import GrpcClient
    from nvlm_trt.client.http_client import HttpClient

    if "://" in target:
        if protocol == "http" or (protocol is None and target.startswith("http://")):
            with HttpClient(target) as http_client:
                yield http_client
        else:
            with GrpcClient(target) as grpc_client:
                yield grpc_client
        return

    from nvlm_trt.deploy.server import TritonServer
    from nvlm_trt.pipeline.deployment import open_deployment

    deployment = open_deployment(Path(target), checkpoint)
    output.note(f"starting Triton for {target}")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(TritonServer(deployment.folder, deployment.checkpoint))
        if protocol == "http":
            yield stack.enter_context(HttpClient(server.http_url))
        else:
            yield stack.enter_context(GrpcClient(server.grpc_url))


def _read(image: Path) -> bytes:
    from nvlm_trt.errors import RequestError

    try:
        return image.read_bytes()
    except OSError:
        raise RequestError("E-IMAGE-FILE", f"{image.name} cannot be read.", "Name a picture file.") from None


def _shown(text: str) -> str:
    return text.translate(_HARMLESS) if sys.stdout.isatty() else text


def _json(facts: PromptFacts, answer: Answer, images: tuple[Path, ...]) -> dict[str, Any]:
    pictures = [
        {"name": name.name, "width": size[0], "height": size[1], "tile_grid": list(grid)}
        for name, size, grid in zip(images, facts.image_sizes, facts.tile_grids, strict=True)
    ]
    return {"format": 1, "images": pictures, **dataclasses.asdict(answer)}
