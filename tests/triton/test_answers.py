from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient, open_client

TEN = AskOptions(max_tokens=10)


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_both_doors_streaming_or_not_give_the_same_answer(server, photos, num_images):
    question, images = "What is shown?", photos[:num_images]
    answers = []
    with GrpcClient(server.grpc_url) as grpc, HttpClient(server.http_url) as http:
        for client in (grpc, http):
            for stream in (True, False):
                answers.append(client.ask(question, images, AskOptions(max_tokens=10, stream=stream)))
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].text
    assert {answer.output_tokens for answer in answers} == {answers[0].output_tokens}
    assert 1 <= answers[0].output_tokens <= 10


def test_a_stream_comes_in_pieces_and_in_order(client, photos):
    options = AskOptions(max_tokens=40, return_log_probs=True)
    with client.stream("Tell a story.", photos[:1], options) as stream:
        chunks = list(stream)
        answer = stream.finish()
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == answer.text
    # The order of tokens shows in the order of their log probabilities.
    whole = client.ask("Tell a story.", photos[:1], AskOptions(max_tokens=40, stream=False, return_log_probs=True))
    assert answer.log_probs == pytest.approx(whole.log_probs)
    assert answer.text == whole.text
    assert 0 < answer.time_to_first_token_s < answer.total_s


def test_a_stream_needs_no_id(server):
    body = json.dumps({"text_input": "Tell a story.", "max_tokens": 9, "stream": True}).encode()
    with urllib.request.urlopen(f"{server.http_url}/v2/models/ensemble/generate_stream", body, timeout=20) as reply:
        frames = [json.loads(line[len("data:") :]) for line in reply.read().decode().splitlines() if line]
    assert sum(frame["num_output_tokens"] for frame in frames) == 9
    assert len(frames) > 1


def test_a_question_is_measured_without_the_engines(client, photos):
    facts = client.measure("Compare <image> with <image>.", photos[:2])
    assert len(facts.image_sizes) == len(facts.tile_grids) == 2
    assert all(width > 0 and height > 0 for width, height in facts.image_sizes)
    assert client.ask("Compare <image> with <image>.", photos[:2], TEN).input_tokens == facts.input_tokens
    assert client.measure("Hello").image_sizes == ()


def test_sixteen_clients_at_once_get_the_answers_each_gets_alone(server, photos):
    cases = [(f"Question {n}: what is it?", photos[: n % 3], AskOptions(max_tokens=4 + n)) for n in range(16)]

    def ask(number: int) -> str:
        question, images, options = cases[number]
        with open_client(server.grpc_url if number % 2 else server.http_url) as client:
            answer: str = client.ask(question, images, options).text
            return answer

    alone = [ask(number) for number in range(len(cases))]
    with ThreadPoolExecutor(len(cases)) as pool:
        together = list(pool.map(ask, range(len(cases))))
    assert together == alone


def test_sampling_follows_its_seed(client):
    def sampled(seed):
        return client.ask("Say anything.", (), AskOptions(max_tokens=12, temperature=2.0, seed=seed)).text

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(6)}) > 1


def test_a_stop_word_ends_the_answer(client):
    whole = client.ask("Tell a story.", (), AskOptions(max_tokens=30))
    word = whole.text.split()[2]
    stopped = client.ask("Tell a story.", (), AskOptions(max_tokens=30, stop_words=(f" {word}", word)))
    assert stopped.output_tokens < whole.output_tokens
    assert whole.text.startswith(stopped.text)


def test_streamed_text_is_the_whole_text_also_where_tokens_end_inside_characters(server):
    """Wild sampling over a byte-level vocabulary: many tokens here are parts of characters, many are none."""
    with GrpcClient(server.grpc_url) as client:
        for seed in range(4):
            options = [
                AskOptions(max_tokens=60, temperature=50.0, seed=seed, stream=stream) for stream in (True, False)
            ]
            streamed, whole = (client.ask("Say anything.", (), option).text for option in options)
            assert "�" in whole
            # A stream that ends inside a character does not show its beginning; one that is whole does not either.
            assert streamed == whole
