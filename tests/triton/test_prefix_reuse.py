"""What the decoder reuses of a prompt, as a client and the metrics page see it."""

from __future__ import annotations

import time

from nvlm_trt.client import Answer, AskOptions
from tests.triton.test_cancel import figure, wait_until
from tests.triton.test_embedding_cache import new_picture

OPTIONS = AskOptions(max_tokens=4, return_log_probs=True)


def test_a_second_question_about_a_picture_computes_little_but_its_words(client, server):
    def asked(question: str, image: bytes) -> tuple[Answer, float, float]:
        """The answer, and how many of its prompt's tokens were found and how many computed."""
        time.sleep(0.25)  # the figures are brought up to date ten times a second
        before = [figure(server, "tokens_total", kind) for kind in ("prompt", "reused", "prefill", "generated")]
        answer = client.ask(question, [image], OPTIONS)
        wait_until(lambda: figure(server, "tokens_total", "generated") >= before[3] + answer.output_tokens)
        prompt, reused, computed = (
            figure(server, "tokens_total", kind) - old
            for kind, old in zip(("prompt", "reused", "prefill"), before, strict=False)
        )
        assert prompt == reused + computed == answer.input_tokens
        return answer, reused, computed

    image = new_picture()
    first, _, computed = asked("What is shown?", image)
    again, reused, computed_again = asked("What is shown?", image)
    assert (again.text, again.log_probs) == (first.text, first.log_probs)
    assert reused > 3 * computed_again
    assert computed > 3 * computed_again
    _, reused_of_another, _ = asked("What is shown?", new_picture())
    assert reused_of_another < reused / 2


def test_the_decoder_says_that_it_is_well_and_that_its_memory_comes_back(client, server):
    client.ask("Hello", (), AskOptions(max_tokens=2))
    assert wait_until(lambda: figure(server, "pool_tokens", "free") == figure(server, "pool_tokens", "all") > 0)
