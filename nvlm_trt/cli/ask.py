"""``nvlm-trt ask``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvlm_trt.cli.output import Output, output_options, timeout_option
from nvlm_trt.cli.target import deployment_at
from nvlm_trt.errors import RequestError, UsageError

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
@timeout_option(60.0)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For a DIR: where its checkpoint lies now.")
@output_options
def ask(
    target: str,
    question: str,
    images: tuple[Path, ...],
    stream: bool,
    protocol: str | None,
    max_tokens: int,
    timeout_s: float,
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
    with _client(target, protocol, timeout_s, checkpoint, output) as client:
        facts = client.measure(question, pictures)
        for name, picture, size, grid in zip(images, pictures, facts.image_sizes, facts.tile_grids, strict=True):
            output.note(f"{name.name}: {size[0]} x {size[1]} pixels, tile grid {grid[0]} x {grid[1]}")
            if _asks_to_be_turned(picture):
                output.note(f"{name.name}: its EXIF data ask to turn it; the model sees it as it is stored")
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
    target: str, protocol: str | None, timeout_s: float, checkpoint: Path | None, output: Output
) -> Iterator[GrpcClient | HttpClient]:
    from nvlm_trt.client import open_client

    deployment = deployment_at(target, checkpoint)
    with contextlib.ExitStack() as stack:
        if deployment is None:
            url = target
            if protocol is not None and not url.startswith(f"{protocol}://"):
                raise UsageError("E-USAGE-URL", f"{url!r} is not {protocol}://HOST:PORT.", "Leave --protocol out.")
        else:
            from nvlm_trt.deploy.server import TritonServer

            output.note(f"starting Triton for {target}")
            server = stack.enter_context(TritonServer(deployment.folder, deployment.checkpoint))
            url = server.http_url if protocol == "http" else server.grpc_url
        client = open_client(url, timeout_s)
        stack.callback(client.close)
        yield client


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError:
        raise RequestError("E-IMAGE-FILE", f"{image.name} cannot be read.", "Name a file on this machine.") from None


def _asks_to_be_turned(picture: bytes) -> bool:
    """For a picture that the server has taken. A photograph held upright often lies on its side in the file."""
    from PIL import ExifTags, Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            # TIFF's own orientation is obeyed where pictures are decoded.
            return opened.format != "TIFF" and opened.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error):
        return False  # damaged EXIF data ask for nothing


def _shown(text: str) -> str:
    return text.translate(_HARMLESS) if sys.stdout.isatty() else text


def _json(facts: PromptFacts, answer: Answer, images: tuple[Path, ...]) -> dict[str, Any]:
    pictures = [
        {"name": name.name, "width": size[0], "height": size[1], "tile_grid": list(grid)}
        for name, size, grid in zip(images, facts.image_sizes, facts.tile_grids, strict=True)
    ]
    return {"format": 1, "images": pictures, **dataclasses.asdict(answer)}
