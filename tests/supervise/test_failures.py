from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.supervise.failures import Failures, RestartPolicy

POLICY = RestartPolicy(limit=5, window_s=100, first_pause_s=1, longest_pause_s=3)


def fail(failures: Failures, *times: float, serving: bool = True) -> list[float | None]:
    pauses = []
    for now in times:
        if serving:
            failures.served()
        pauses.append(failures.failed(now))
    return pauses


def test_the_first_failure_is_mended_at_once_the_next_ones_later_and_later_and_the_last_not_at_all():
    assert fail(Failures(POLICY), 10, 11, 12, 13, 14) == [0, 1, 2, 3, None]


def test_what_happened_long_ago_is_forgotten():
    failures = Failures(POLICY)
    assert fail(failures, 0, 1, 2, 50) == [0, 1, 2, 3]
    assert fail(failures, 101.5) == [2]  # those of 2 and 50 still count
    assert failures.count == 3


def test_starts_that_never_serve_are_not_repeated_for_ever_however_long_each_takes():
    assert fail(Failures(POLICY), *range(0, 5000, 1000), serving=False)[-1] is None


@given(st.lists(st.floats(0, 1000), max_size=60), st.integers(1, 8), st.floats(1, 300))
def test_given_up_exactly_when_a_window_holds_as_many_as_the_limit(gaps: list[float], limit: int, window: float):
    failures = Failures(RestartPolicy(limit, window))
    times: list[float] = []
    for gap in gaps:
        times.append((times[-1] if times else 0.0) + gap)
        failures.served()
        pause = failures.failed(times[-1])
        recent = sum(times[-1] - time < window for time in times)
        assert (pause is None) == (recent >= limit)
        if pause is None:
            return
        assert 0 <= pause <= 30
