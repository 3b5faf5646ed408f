"""A client over HTTP: ``/generate_stream`` (server-sent events) and ``/generate``.

Triton's status codes cannot be trusted here. A model's error has status 400 whatever it was, an error after the first
token comes in a stream of status 200, and ``/generate`` may say 200 with nothing but an error in it. So every body is
inspected. A stream ends where its body ends.
"""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from nvlm_trt.client.answer import FACTS, Answer, AnswerStream, Chunk, PromptFacts, log_probs_of
from nvlm_trt.client.failures import lost, refused, timed_out, unreachable, unreadable
from nvlm_trt.client.options import AskOptions, request_values
from nvlm_trt.errors import NvlmError, ServerError, UsageError

__all__ = ["HttpClient"]

_STOP_TIMEOUT_S = 5.0


class HttpClient:
    """One connection per request, none kept open. Any thread may use it.

    ``timeout_s`` bounds each wait: for the connection, and for each next piece of an answer. When a caller leaves
    before an answer's end the server is told to stop it, unless ``stops`` is false.
    """

    def __init__(self, url: str, timeout_s: float = 60.0, *, stops: bool = True) -> None:
        """``url`` is http://HOST:PORT. Raises ``UsageError`` E-USAGE-URL."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise UsageError("E-USAGE-URL", f"{url!r} is not http://HOST:PORT.", "Correct the address.")
        self.url = url
        self.timeout_s = timeout_s
        self._stops = stops
        self._host, self._port = parts.hostname, parts.port or 80

    def ask(self, question: str, images: Sequence[bytes] = (), options: AskOptions | None = None) -> Answer:
        """Raises the server's ``NvlmError``, or ``ServerError`` E-SERVER-*."""
        with self.stream(question, images, options) as stream:
            return stream.finish()

    def stream(
        self, question: str, images: Sequence[bytes] = (), options: AskOptions | None = None, *, named: str = ""
    ) -> AnswerStream:
        """Chunks as they come, one if ``options.stream`` is off. Errors are raised while iterating.

        ``named`` begins the request's id, for whoever reads the server's logs.
        """
        request_id = f"{named}{uuid.uuid4().hex}"
        return AnswerStream(
            self._chunks(request_values(question, images, options or AskOptions()), request_id), request_id
        )

    def measure(self, question: str, images: Sequence[bytes] = ()) -> PromptFacts:
        """Ask only what the question would cost; the engines do no work."""
        values = request_values(question, images, AskOptions(max_tokens=1, stream=False))
        inputs = [
            {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [values["text_input"]]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [1]},
        ]
        if images:
            uris = values["image_url_input"]
            inputs.append({"name": "image_url_input", "datatype": "BYTES", "shape": [len(uris)], "data": uris})
        outputs = [{"name": name} for name in FACTS]
        with self._post("/v2/models/preprocessing/infer", {"inputs": inputs, "outputs": outputs}) as response:
            body = _parse(response.read())
        try:
            return PromptFacts.from_outputs({output["name"]: output["data"] for output in body["outputs"]})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise unreadable(error) from None

    def stop(self, request_id: str) -> None:
        """End a request that is being answered. Nothing happens if there is none."""
        body = {"id": request_id, "stop": True, "input_lengths": 0, "request_output_len": 0}
        with self._post("/v2/models/tensorrt_llm/generate_stream", body, _STOP_TIMEOUT_S) as response:
            for _ in _frames(response):
                pass

    def close(self) -> None:
        """Does nothing, because nothing is kept open; it makes the two clients interchangeable."""

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunks(self, values: Mapping[str, Any], request_id: str) -> Generator[Chunk, None, None]:
        streaming = values["stream"]
        path = "/v2/models/ensemble/" + ("generate_stream" if streaming else "generate")
        running = True
        try:
            with self._post(path, {"id": request_id, **values}) as response:
                frames = _frames(response) if streaming else iter([_parse(response.read())])
                for frame in frames:
                    yield _chunk(frame)
                running = False
        except NvlmError as error:
            running = error.code in ("E-SERVER-TIMEOUT", "E-SERVER-LOST")
            raise
        finally:
            if running and self._stops:
                with suppress(NvlmError):
                    self.stop(request_id)

    @contextmanager
    def _post(
        self, path: str, body: Mapping[str, Any], timeout_s: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        timeout_s = timeout_s or self.timeout_s
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise unreachable(self.url, error) from None
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _refusal(response)
                yield response
        except TimeoutError:
            raise timed_out(timeout_s) from None
        except http.client.RemoteDisconnected as error:
            raise lost(error) from None
        except http.client.BadStatusLine as error:  # no HTTP, such as the gRPC port's first words
            raise unreadable(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise lost(error) from None
        finally:
            connection.close()


def _frames(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data:"):
            yield _parse(line[5:])


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise unreadable(error) from None
    if not isinstance(body, dict):
        raise unreadable()
    if isinstance(body.get("error"), dict):
        what = "What answered speaks OpenAI's API, as the gateway does."
        raise ServerError("E-SERVER-PROTOCOL", what, "Ask the Triton behind it, at its HTTP or gRPC port.")
    if "error" in body:
        raise refused(str(body["error"]))
    return body


def _refusal(response: http.client.HTTPResponse) -> NvlmError:
    data = response.read()
    try:
        _parse(data[5:] if data.startswith(b"data:") else data)
    except NvlmError as error:
        return error
    return unreadable(f"status {response.status}")


def _chunk(frame: Mapping[str, Any]) -> Chunk:
    try:
        given, output_tokens = frame.get("output_log_probs", ()), int(frame["num_output_tokens"])
        # A tensor of one value is no list in Triton's JSON.
        so_far = [float(value) for value in (given if isinstance(given, list | tuple) else [given])]
        return Chunk(
            text=str(frame["text_output"]),
            input_tokens=int(frame["num_input_tokens"]),
            output_tokens=output_tokens,
            log_probs=log_probs_of(so_far, output_tokens),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(error) from None
