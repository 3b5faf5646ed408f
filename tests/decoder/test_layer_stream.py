"""Passes over the layers with hidden states on disk: the same bits, killed and resumed, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.decoder import layer_stream
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.hidden_states import DiskStates
from nvlm_trt.decoder.layer_journal import LayerJournal
from nvlm_trt.decoder.layer_stream import stream_layers
from nvlm_trt.decoder.numpy_ops import NumpyOps
from nvlm_trt.decoder.sample_source import ArraySamples
from nvlm_trt.errors import BuildError
from tests.decoder import killed_calibration
from tests.decoder.killed_calibration import some_samples

Floats = NDArray[np.float32]


@pytest.fixture
def samples(checkpoint: Checkpoint) -> list[Floats]:
    return some_samples(checkpoint.config.decoder.hidden_size)


@pytest.fixture(autouse=True)
def two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_stream, "_BATCH_TOKENS", 47)


class CountedSamples(ArraySamples):
    """Samples that notice which rows are made, and may fail at one."""

    def __init__(self, rows: Sequence[Floats], fails_at: int = -1) -> None:
        super().__init__(rows)
        self.made: list[int] = []
        self.released = 0
        self._fails_at = fails_at

    def __getitem__(self, index: int) -> Floats:
        if index == self._fails_at:
            raise KeyboardInterrupt
        self.made.append(index)
        return super().__getitem__(index)

    def release(self) -> None:
        self.released += 1


class Work:
    """Adds one per layer, notes what it is run on, and may be interrupted in its second batch."""

    seen: ClassVar[list[tuple[int, float]]] = []
    fails_at = -1

    def __init__(self, number: int) -> None:
        self._number = number
        self._batches = 0

    def run(self, hidden: Floats, lengths: Sequence[int]) -> Floats:
        self._batches += 1
        assert sum(lengths) == len(hidden)
        if self._number == self.fails_at and self._batches == 2:
            raise KeyboardInterrupt
        self.seen.append((self._number, float(hidden[0, 0])))
        return hidden + np.float32(1)

    def result(self) -> dict[str, float]:
        return {"number": float(self._number), "third": self._number / 3}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> type[Work]:
    monkeypatch.setattr(Work, "seen", [])
    return Work


def outputs(checkpoint: Checkpoint, samples: Any, scratch: Path | None, work: type[Work]) -> tuple[Any, Floats]:
    stream = stream_layers(
        checkpoint,
        samples,
        NumpyOps(1),
        lambda number, _: work(number),
        name="test",
        depends_on=("a",),
        scratch=scratch,
    )
    with stream as streamed:
        return list(streamed.results), np.concatenate(list(streamed.outputs()))


def test_hidden_states_on_disk_change_no_bit_and_leave_no_file(
    checkpoint: Checkpoint, samples: list[Floats], tmp_path: Path
) -> None:
    in_memory = calibrate(checkpoint, samples)
    assert calibrate(checkpoint, samples, scratch=tmp_path / "new") == in_memory
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("layers", [1, 3])
def test_a_killed_calibration_goes_on_from_its_last_layer(
    small_checkpoint: Path, checkpoint: Checkpoint, tmp_path: Path, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the process packs as usual
    samples = some_samples(checkpoint.config.decoder.hidden_size)
    command = [sys.executable, killed_calibration.__file__, str(small_checkpoint), str(tmp_path), str(layers)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    done: list[int] = []
    resumed = CountedSamples(samples)
    calibration = calibrate(checkpoint, resumed, lambda number, _: done.append(number), scratch=tmp_path)
    assert done == list(range(layers + 1, checkpoint.config.decoder.num_layers + 1))
    assert resumed.made == []
    assert calibration.to_json() == calibrate(checkpoint, samples).to_json()
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_within_a_layer_costs_that_layer(
    checkpoint: Checkpoint, samples: list[Floats], tmp_path: Path, work: type[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outputs(checkpoint, ArraySamples(samples), None, work)
    monkeypatch.setattr(work, "fails_at", 2)
    with pytest.raises(KeyboardInterrupt):
        outputs(checkpoint, ArraySamples(samples), tmp_path, work)
    monkeypatch.setattr(work, "fails_at", -1)
    work.seen.clear()
    found = outputs(checkpoint, ArraySamples(samples), tmp_path, work)
    assert [number for number, _ in work.seen] == [2, 2, 3, 3]
    assert work.seen[0][1] == samples[0][0, 0] + np.float32(1) + np.float32(1)
    assert found[0] == expected[0]
    assert np.array_equal(found[1], expected[1])


def test_an_interruption_while_samples_are_made_costs_a_batch(
    checkpoint: Checkpoint, samples: list[Floats], tmp_path: Path, work: type[Work]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        outputs(checkpoint, CountedSamples(samples, fails_at=2), tmp_path, work)
    resumed = CountedSamples(samples)
    found = outputs(checkpoint, resumed, tmp_path, work)
    assert resumed.made == [2]  # 0 and 1 were the first batch
    assert resumed.released == 1
    assert np.array_equal(found[1], outputs(checkpoint, ArraySamples(samples), None, work)[1])


@pytest.mark.parametrize("stale", ["samples", "checkpoint", "method", "garbage", "emptied", "gone"])
def test_a_stale_state_is_discarded(checkpoint: Checkpoint, samples: list[Floats], tmp_path: Path, stale: str) -> None:
    scratch = tmp_path / "scratch"

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, samples, stop, scratch=scratch)
    files = {file.name: file for file in scratch.iterdir()}
    assert set(files) == {"calibration.json", "calibration.hidden.0", "calibration.hidden.1"}
    method = "amax"
    if stale == "samples":
        samples = some_samples(checkpoint.config.decoder.hidden_size, seed=1)
    elif stale == "checkpoint":
        write_checkpoint(tmp_path / "other", SIZES["small"], seed=1)
        checkpoint = open_checkpoint(tmp_path / "other")
    elif stale == "method":
        method = "mse"
    elif stale == "garbage":
        files["calibration.json"].write_text('{"key": 3')
    else:
        for name in ("calibration.hidden.0", "calibration.hidden.1"):
            files[name].write_bytes(b"") if stale == "emptied" else files[name].unlink()
    done: list[int] = []
    found = calibrate(checkpoint, samples, lambda number, _: done.append(number), method=method, scratch=scratch)
    assert done == [1, 2, 3, 4]
    assert found == calibrate(checkpoint, samples, method=method)


def test_two_passes_share_a_folder_by_their_names(tmp_path: Path) -> None:
    states = [DiskStates(tmp_path / name, [2, 3], 4, 0) for name in ("one", "two")]
    for value, one in enumerate(states):
        one.write(0, np.full((2, 4), value, np.float32))
        one.write(1, np.full((3, 4), value, np.float32))
        one.turn()
    assert [float(one.read(1)[2, 3]) for one in states] == [0, 1]
    assert all(one.readable for one in states)
    for one in states:
        one.close()


def test_a_scratch_folder_that_cannot_be_is_refused(
    checkpoint: Checkpoint, samples: list[Floats], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError) as caught:
        calibrate(checkpoint, samples, scratch=tmp_path / "file" / "scratch")
    assert caught.value.code == "E-BUILD-WRITE"


def test_a_full_disk_is_said_so(
    checkpoint: Checkpoint, samples: list[Floats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(DiskStates):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.close()
            self._files = [os.open("/dev/full", os.O_RDWR) for _ in range(2)]

    monkeypatch.setattr(layer_stream, "DiskStates", FullDisk)
    with pytest.raises(BuildError) as caught:
        calibrate(checkpoint, samples, scratch=tmp_path)
    assert caught.value.code == "E-BUILD-SPACE"


def test_a_journal_is_read_back_exactly(tmp_path: Path) -> None:
    journal = LayerJournal("key", 1, [["a", "b"], ["c"]], [{"x": 0.1}, {"x": 1 / 3}])
    journal.save(tmp_path / "journal.json")
    assert LayerJournal.load(tmp_path / "journal.json", "key") == journal
    assert LayerJournal.load(tmp_path / "journal.json", "other") == LayerJournal("other")
    assert LayerJournal.load(tmp_path / "none.json", "key") == LayerJournal("key")
