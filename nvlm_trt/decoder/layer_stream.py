"""A pass over the decoder, one layer at a time: every sample goes through a layer, then the next layer is read.

    samples ──embed──► hidden states ──► layer 0 ──► hidden states ──► layer 1 ──► ... ──► the last hidden states
                                            │                             │
                                         result 0                      result 1

The memory is one layer's weights and one batch's working set, whatever the number of layers or, with a scratch folder,
of samples; the checkpoint is read once. The results are those of running the whole model, bit for bit, because the same
operations see the same numbers.

What a pass does with a layer is its ``LayerWork``. With a scratch folder a killed pass resumes at its last finished
layer, or its last finished batch of embedded samples, and ends with the same bytes; the files are removed when it has
succeeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nvlm_trt import __version__
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.disk import writing
from nvlm_trt.decoder.hidden_states import DiskStates, HiddenStates, MemoryStates
from nvlm_trt.decoder.layer import DecoderLayer, LayerWeights
from nvlm_trt.decoder.layer_journal import LayerJournal, LayerResult
from nvlm_trt.decoder.layer_ops import LayerOps
from nvlm_trt.decoder.sample_source import Samples, digest_rows
from nvlm_trt.errors import UsageError

__all__ = ["LayerWork", "Streamed", "stream_layers"]

# Samples are packed until this many tokens: enough to make widening a weight cheap beside multiplying with it, few
# enough that the MLP's inner activations stay near 0.5 GB at full size (2048 x 29568 float32, twice).
_BATCH_TOKENS = 2048


class LayerWork(Protocol):
    def run(self, hidden: Any, lengths: Sequence[int]) -> Any:
        """One batch through the layer."""

    def result(self) -> LayerResult:
        """The result once all batches are through. Floats survive the journal exactly."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What a finished pass leaves: the layers' results, and the last layer's output batch by batch."""

    results: Sequence[LayerResult]
    samples_sha256: str
    states: HiddenStates
    num_batches: int

    def outputs(self) -> Iterator[NDArray[np.float32]]:
        return (self.states.read(batch) for batch in range(self.num_batches))


@contextlib.contextmanager
def stream_layers(
    checkpoint: Checkpoint,
    samples: Samples,
    ops: LayerOps,
    work: Callable[[int, DecoderLayer], LayerWork],
    *,
    name: str,
    depends_on: Sequence[str],
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Streamed]:
    """Run ``work`` on every layer. The output can be read inside the ``with``.

    ``name`` distinguishes files of this pass from another's in the same scratch folder; ``depends_on`` is what decides
    results besides checkpoint and samples. ``progress`` counts layers.

    Raises ``UsageError`` E-USAGE-CALIBRATION without samples, ``BuildError`` E-BUILD-SPACE and E-BUILD-WRITE.
    """
    lengths = list(samples.lengths)
    if not lengths or not all(lengths):
        raise UsageError(
            "E-USAGE-CALIBRATION", "There is no calibration sample, or an empty one.", "Give at least one prompt."
        )
    batches = list(_packed(lengths))
    stage = _MemoryStage(len(batches))
    if scratch is not None:
        key = _key(name, depends_on, checkpoint, samples)
        rows = [sum(lengths[index] for index in batch) for batch in batches]
        stage = _DiskStage(scratch, name, key, rows, checkpoint.config.decoder.hidden_size)
    with contextlib.closing(stage):
        _embed(samples, batches, stage)
        total = checkpoint.config.decoder.num_layers
        for layer in range(len(stage.journal.results), total):
            weights = LayerWeights.read(checkpoint, layer, ops.put)
            layer_work = work(layer, DecoderLayer(ops, checkpoint.config.decoder, weights))
            for number, batch in enumerate(batches):
                hidden = layer_work.run(ops.put(stage.states.read(number)), [lengths[index] for index in batch])
                stage.states.write(number, ops.get(hidden))
            stage.journal.results.append(layer_work.result())
            stage.states.turn()
            stage.save()
            del weights, layer_work
            LayerWeights.drop(checkpoint, layer)
            if progress:
                progress(layer + 1, total)
        digests = "".join(itertools.chain.from_iterable(stage.journal.digests))
        sha256 = hashlib.sha256(digests.encode()).hexdigest()
        yield Streamed(stage.journal.results, sha256, stage.states, len(batches))
        stage.remove()


class _MemoryStage:
    """Hidden states and journal of one pass."""

    def __init__(self, batches: int) -> None:
        self.states: HiddenStates = MemoryStates(batches)
        self.journal = LayerJournal("")

    def save(self) -> None:
        pass

    def remove(self) -> None:
        pass

    def close(self) -> None:
        self.states.close()


class _DiskStage(_MemoryStage):
    """The same in a folder, from which a killed pass resumes."""

    def __init__(self, scratch: Path, name: str, key: str, rows: Sequence[int], width: int) -> None:
        with writing(scratch.name):
            scratch.mkdir(parents=True, exist_ok=True)
        self._file = scratch / f"{name}.json"
        self._stem = scratch / f"{name}.hidden"
        self.journal = LayerJournal.load(self._file, key)
        self.states: DiskStates = DiskStates(self._stem, rows, width, self.journal.current)
        embedded = len(self.journal.digests)
        # What lies there is not ours to trust: files may have been deleted under the journal.
        if not (self.states.readable if embedded == len(rows) else self.states.written(embedded)):
            self.journal = LayerJournal(key)
            self.states.current = self.journal.current

    def save(self) -> None:
        self.states.sync()
        self.journal.current = self.states.current
        self.journal.save(self._file)

    def remove(self) -> None:
        for file in (self._file, *DiskStates.paths(self._stem)):
            file.unlink(missing_ok=True)


def _embed(samples: Samples, batches: Sequence[Sequence[int]], stage: _MemoryStage) -> None:
    """Write those batches of samples that are not yet written."""
    done = len(stage.journal.digests)
    for number in range(done, len(batches)):
        rows = [samples[index] for index in batches[number]]
        stage.states.write(number, np.concatenate(rows))
        stage.journal.digests.append([digest_rows(sample) for sample in rows])
        if number == len(batches) - 1:
            stage.states.turn()
        stage.save()
    if done < len(batches):
        samples.release()


def _packed(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring samples together while they fit; one that is longer than a batch stays whole and alone."""
    group: list[int] = []
    for index, length in enumerate(lengths):
        if group and sum(lengths[other] for other in group) + length > _BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    yield group


def _key(name: str, depends_on: Sequence[str], checkpoint: Checkpoint, samples: Samples) -> str:
    parts = [__version__, _BATCH_TOKENS, name, *depends_on, checkpoint.fingerprint(), samples.key()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
