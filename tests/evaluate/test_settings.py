"""The settings beside a run's answers: written once, whoever comes first, and compared from then on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nvlm_trt.errors import BuildError, UsageError
from nvlm_trt.evaluate.settings import keep_values


def test_partitions_that_begin_at_the_same_moment_all_find_their_settings(tmp_path):
    for turn in range(5):
        file, ready = tmp_path / f"run{turn}" / "settings.json", threading.Barrier(4)

        def begin(_: int) -> None:
            ready.wait()  # noqa: B023 - called at once
            keep_values(file, {"seed": 7})  # noqa: B023

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(begin, range(4)))
        assert [path.name for path in file.parent.iterdir()] == ["settings.json"]
        with pytest.raises(UsageError, match="had seed 7; this one has 8"):
            keep_values(file, {"seed": 8})


def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BuildError) as raised:
        keep_values(tmp_path / "file" / "run" / "settings.json", {"seed": 7})
    assert raised.value.code == "E-BUILD-WRITE"
