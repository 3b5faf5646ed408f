"""OpenAI's Python client, unmodified, against the real ensemble."""

from __future__ import annotations

import asyncio

import openai
import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from tests.gateway.conftest import picture_part, text_part, user

MODEL = "nvlm-d"


@pytest.fixture(scope="module")
def grpc(server):
    with GrpcClient(server.grpc_url) as client:
        yield client


def complete(chat, *messages, **options):
    return chat.chat.completions.create(model=MODEL, messages=[*messages], **options)


def text_of(completion) -> str:
    return str(completion.choices[0].message.content)


def streamed(chat, *messages, **options):
    with complete(chat, *messages, stream=True, **options) as stream:
        return list(stream)


def test_the_model_is_listed(chat):
    (model,) = chat.models.list().data
    assert (model.id, model.object, model.max_model_len) == (MODEL, "model", 1024)
    assert chat.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="E-DOOR-MODEL"):
        chat.models.retrieve("gpt-4o")


@pytest.mark.parametrize("num_pictures", [0, 1, 3])
def test_an_answer_is_the_ensembles_own(chat, grpc, photos, num_pictures):
    """The one question with pictures in front, through the old input and through the conversation."""
    pictures = photos[:num_pictures]
    direct = grpc.ask("What is this?", pictures, AskOptions(max_tokens=12))
    parts = [*map(picture_part, pictures), text_part("What is this?")]
    completion = complete(chat, user(*parts), max_tokens=12)
    assert text_of(completion) == direct.text
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.prompt_tokens == direct.input_tokens
    assert completion.usage.completion_tokens == direct.output_tokens == 12
    assert completion.usage.total_tokens == direct.input_tokens + 12


def test_a_text_before_its_picture_is_the_same_question(chat, photos):
    first, second = (
        complete(chat, user(*parts), max_tokens=6)
        for parts in (
            (picture_part(photos[0]), text_part("What is this?")),
            (text_part("What is this?"), picture_part(photos[0])),
        )
    )
    assert text_of(first) == text_of(second)
    assert first.usage == second.usage


def test_a_stream_is_the_answer_in_pieces(chat, photos):
    question = user(picture_part(photos[1]), text_part("What is this?"))
    whole = complete(chat, question, max_completion_tokens=16)
    chunks = streamed(chat, question, max_completion_tokens=16, stream_options={"include_usage": True})
    *pieces, usage = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text_of(whole)
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason] == ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert all(piece.usage is None for piece in pieces)


def test_without_include_usage_no_chunk_has_one(chat):
    chunks = streamed(chat, user("Hello"), max_tokens=2)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_detail_low_is_one_tile(chat, photos):
    costs = [
        complete(chat, user(picture_part(photos[0], detail), text_part("What?")), max_tokens=1).usage.prompt_tokens
        for detail in ("low", "high", "auto", None)
    ]
    assert costs[0] < costs[1] == costs[2] == costs[3]


def test_several_turns_with_a_picture_in_an_earlier_one(chat, photos):
    first = user(picture_part(photos[0]), text_part("What is this?"))
    answer = complete(chat, first, max_tokens=5)
    # The client's own object, with all its empty fields, is sent back.
    history = [first, answer.choices[0].message]
    cost = answer.usage.total_tokens
    text_only = complete(chat, *history, user("And what else?"), max_tokens=5)
    with_picture = complete(chat, *history, user(picture_part(photos[2]), text_part("And what else?")), max_tokens=5)
    assert cost < text_only.usage.prompt_tokens < with_picture.usage.prompt_tokens
    assert text_of(text_only) != text_of(with_picture)


def test_a_system_message_replaces_the_models_own(chat):
    default, other, none = (
        complete(chat, *system, user("Hello"), max_tokens=4).usage.prompt_tokens
        for system in (
            [],
            [{"role": "developer", "content": "Answer the questions."}],
            [{"role": "system", "content": ""}],
        )
    )
    assert default == other > none


def test_a_stop_word_ends_the_answer_before_it(chat):
    whole = text_of(complete(chat, user("Tell a story."), max_tokens=40))
    # Across two words, so that no token of the decoder is it.
    at = whole.index(" ", 40) - 1
    word = whole[at : at + 3]
    expected = whole[: whole.index(word)]
    for options in ({"stop": word}, {"stop": ["never said", word]}):
        # What the decoder made before it heard of the stop counts: many more are allowed than come in one response.
        completion = complete(chat, user("Tell a story."), max_tokens=400, **options)
        assert text_of(completion) == expected
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage.completion_tokens < 400
    chunks = streamed(chat, user("Tell a story."), max_tokens=40, stop=word)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_answer_that_ends_by_itself_says_stop(chat):
    """Random weights end an answer at some point if it is drawn from all tokens. Cut just there, it was cut."""
    for first in range(0, 800, 8):
        several = complete(chat, user("Hello"), n=8, temperature=1, seed=first, max_tokens=30)
        for seed, choice in enumerate(several.choices, first):
            if choice.finish_reason == "stop":
                ended = complete(chat, user("Hello"), temperature=1, seed=seed, max_tokens=30)
                assert ended.choices[0].finish_reason == "stop"
                length = ended.usage.completion_tokens
                assert 0 < length < 30
                cut = complete(chat, user("Hello"), temperature=1, seed=seed, max_tokens=length)
                assert cut.choices[0].finish_reason == "length"
                assert text_of(cut) == text_of(ended) == choice.message.content
                return
    pytest.fail("no answer ended by itself")


def test_a_seed_gives_the_same_answer_and_none_another(chat):
    def ask(**options) -> str:
        return text_of(complete(chat, user("Hello"), temperature=1, max_tokens=12, **options))

    assert ask(seed=7) == ask(seed=7)
    assert ask(seed=7) != ask(seed=8)
    assert len({ask() for _ in range(3)}) == 3
    assert ask(seed=-1) == ask(seed=2**64 - 1)


def test_n_answers_have_seeds_that_follow_each_other(chat):
    many = complete(chat, user("Hello"), n=3, seed=40, temperature=1, max_tokens=8)
    each = [complete(chat, user("Hello"), seed=40 + n, temperature=1, max_tokens=8) for n in range(3)]
    alone = [text_of(completion) for completion in each]
    assert [choice.message.content for choice in many.choices] == alone
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    assert many.usage.completion_tokens == sum(completion.usage.completion_tokens for completion in each)
    assert many.usage.prompt_tokens == each[0].usage.prompt_tokens
    chunks = streamed(chat, user("Hello"), n=3, seed=40, temperature=1, max_tokens=8)
    texts = ["", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == alone


def test_log_probs_are_of_each_token(chat):
    plain = complete(chat, user("Hello"), max_tokens=6)
    assert plain.choices[0].logprobs is None
    completion = complete(chat, user("Hello"), max_tokens=6, logprobs=True, top_logprobs=0)
    entries = completion.choices[0].logprobs.content
    assert len(entries) == 6
    assert "".join(entry.token for entry in entries) == text_of(completion) == text_of(plain)
    assert all(entry.logprob <= 0 and bytes(entry.bytes).decode() == entry.token for entry in entries)
    chunks = streamed(chat, user("Hello"), max_tokens=6, logprobs=True)
    told = [entry.logprob for chunk in chunks if (found := chunk.choices[0].logprobs) for entry in found.content]
    assert told == [entry.logprob for entry in entries]


def test_penalties_and_extensions_reach_the_decoder(chat):
    def ask(**options) -> str:
        return text_of(complete(chat, user("Hello"), max_tokens=30, **options))

    plain = ask()
    assert plain != ask(frequency_penalty=2)
    assert plain != ask(presence_penalty=2)
    assert plain != ask(extra_body={"repetition_penalty": 5.0})
    assert plain == ask(temperature=0, extra_body={"ignore_eos": True, "min_tokens": 30})
    assert plain == ask(temperature=1, extra_body={"top_k": 1})


def test_an_answer_of_which_no_length_was_named_takes_what_fits(chat):
    """4096 tokens by default, and this model's sequence has 1024."""
    completion = complete(chat, user("Hello " * 150), extra_body={"ignore_eos": True})
    assert completion.usage.total_tokens == 1024
    assert completion.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="E-PROMPT-LENGTH"):
        complete(chat, user("Hello"), max_tokens=1024)
    with pytest.raises(openai.BadRequestError, match="E-PROMPT-LENGTH"):
        complete(chat, user("Hello " * 2000))


def test_many_at_once_are_each_answered_as_alone(gateway, chat, photos):
    questions = [
        user(*([picture_part(photos[n % 3])] if n % 2 else []), text_part(f"Question {n}: what is it?"))
        for n in range(12)
    ]
    alone = [text_of(complete(chat, question, max_tokens=20)) for question in questions]

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
            asked = (client.chat.completions.create(model=MODEL, messages=[q], max_tokens=20) for q in questions)
            return [text_of(completion) for completion in await asyncio.gather(*asked)]

    assert asyncio.run(together()) == alone


@pytest.mark.parametrize(
    ("options", "error", "param", "code"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model", "E-DOOR-MODEL"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools", "E-PARAM-UNSUPPORTED"),
        ({"top_logprobs": 3, "logprobs": True}, openai.BadRequestError, "top_logprobs", "E-PARAM-UNSUPPORTED"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "E-PARAM-RANGE"),
        ({"n": 2}, openai.BadRequestError, "n", "E-PARAM-RANGE"),
        ({"extra_body": {"best_of": 2}}, openai.BadRequestError, "best_of", "E-PARAM-UNSUPPORTED"),
    ],
)
def test_a_refusal_is_an_error_of_the_clients(chat, options, error, param, code):
    with pytest.raises(error) as refused:
        chat.chat.completions.create(**{"model": MODEL, "messages": [user("Hello")], **options})
    assert (refused.value.param, refused.value.code) == (param, code)
    assert code in str(refused.value)
