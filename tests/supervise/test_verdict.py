from __future__ import annotations

import pytest

from nvlm_trt.errors import ArtefactError, NvlmError, OverloadedError, ServerError
from nvlm_trt.supervise.verdict import Suspicion, Verdict

SILENT = ServerError("E-SERVER-TIMEOUT", "The server sent nothing for 5 s.")
ODD = ServerError("E-SERVER-INTERNAL", "The server failed to answer.")


def verdict(suspicion: Suspicion, error: NvlmError | None, progress: float = 0) -> Verdict:
    return suspicion.judge(error and suspicion.excuse(error, lambda: progress))


@pytest.mark.parametrize(
    "error",
    [
        ServerError("E-SERVER-MODEL", "A model process of the server has died."),
        ArtefactError("E-ENGINE-FAULT", "The decoder engine has failed."),
        ArtefactError("E-ENGINE-RANK", "A rank of the decoder has ended."),
    ],
)
def test_who_says_it_is_dead_is(error):
    assert verdict(Suspicion(), error) is Verdict.DEAD


def test_who_is_full_lives():
    full = OverloadedError("E-BUSY-QUEUE", "The decoder's queue is full.")
    assert [verdict(Suspicion(), full) for _ in range(9)] == 9 * [Verdict.ALIVE]


def test_who_is_silent_and_gets_on_lives_and_who_is_silent_and_does_not_is_dead():
    suspicion = Suspicion(progress=10)
    assert [verdict(suspicion, SILENT, progress) for progress in (11, 12, 13)] == 3 * [Verdict.ALIVE]
    assert [verdict(suspicion, SILENT, 13) for _ in range(2)] == [Verdict.DOUBTED, Verdict.DEAD]


def test_any_other_error_is_believed_when_it_comes_again_at_once():
    suspicion = Suspicion()
    assert [verdict(suspicion, ODD), verdict(suspicion, None), verdict(suspicion, ODD)] == [
        Verdict.DOUBTED,
        Verdict.ALIVE,
        Verdict.DOUBTED,
    ]
    assert verdict(suspicion, ODD) is Verdict.DEAD
