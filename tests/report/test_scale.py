from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.report.scale import fitting, shown

VALUES = st.lists(st.floats(-1e9, 1e9).map(lambda value: round(value, 6)), min_size=1, max_size=20)


@given(VALUES, st.booleans())
def test_every_value_has_a_place_and_order_is_kept(values: list[float], zero: bool) -> None:
    scale = fitting(values, zero=zero)
    places = [scale.place(value) for value in sorted(values)]
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert places == sorted(places)
    assert all(scale.low <= tick <= scale.high or abs(tick) < 1e-9 for tick in scale.ticks)
    assert len(scale.ticks) <= 16


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [
        ([0, 10], False, (0, 2.5, 5, 7.5, 10)),
        ([3, 9], True, (0, 2, 4, 6, 8)),
        ([40, 82], False, (40, 50, 60, 70, 80)),
        ([1, 100], True, (1, 2, 5, 10, 20, 50, 100)),
        ([5], False, (4.6, 4.8, 5, 5.2, 5.4)),
        ([], False, (0, 0.25, 0.5, 0.75, 1)),
    ],
)
def test_marks_are_round(values: list[float], zero: bool, ticks: tuple[float, ...]) -> None:
    assert fitting(values, zero=zero).ticks == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1,234"),
        (99.95, "100"),
        (1.5, "1.5"),
        (0.0123456, "0.0123"),
        (4.56e-5, "4.6e-05"),
        (-2.0, "-2"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert shown(value) in (text, text.replace("1,234", "1,235"))
