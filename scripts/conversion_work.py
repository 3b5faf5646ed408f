"""The work that ``bench_conversion.py`` measures: the conversion, the simplest loop, the disk alone, and ModelOpt."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.direct_io import PAGE_BYTES, DirectReader, DirectWriter, aligned_buffer
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.tensor_spec import DTYPES
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.calibration import Calibration, LayerAmax
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint

__all__ = ["WORK", "Ranks", "measure"]

_CHUNK_BYTES = 16 << 20


class Ranks(NamedTuple):
    """``tp`` ranks hold parts of each layer, ``pp`` stages a run of layers each."""

    tp: int = 1
    pp: int = 1

    def __str__(self) -> str:
        return f"{self.tp}x{self.pp}"


def convert(checkpoint: Checkpoint, out: Path, ranks: Ranks) -> tuple[int, int]:
    layer = LayerAmax(qkv=4.0, dense=2.0, fc=4.0, proj=8.0, k_cache=3.0, v_cache=3.0)
    calibration = Calibration((layer,) * checkpoint.config.decoder.num_layers, "0" * 64, 1, 1)
    report = write_trtllm_checkpoint(checkpoint, calibration, out, tp=ranks.tp, pp=ranks.pp)
    return report.bytes_read, report.bytes_written


def simple(checkpoint: Checkpoint, out: Path, ranks: Ranks) -> tuple[int, int]:
    done_in = done_out = 0
    out.mkdir()
    with (out / "all.bin").open("wb") as file:
        for name in decoder_names(checkpoint):
            info = checkpoint.info(name)
            assert info.place is not None
            dtype = DTYPES[info.dtype]
            values = np.fromfile(info.place.file, dtype, info.nbytes // dtype.itemsize, offset=info.place.offset)
            if name.endswith("_proj.weight"):
                stored = fp8.quantize(values, fp8.scale_for(fp8.amax(values)))
            else:
                stored = values.astype(DTYPES["BF16"])
            for _ in range(ranks.tp if "embed_tokens" in name else 1):
                file.write(stored.view(np.uint8).data)
                done_out += stored.nbytes
            done_in += info.nbytes
        file.flush()
        os.fsync(file.fileno())
    return done_in, done_out


def disk(checkpoint: Checkpoint, out: Path, ranks: Ranks) -> tuple[int, int]:
    infos = [checkpoint.info(name) for name in decoder_names(checkpoint)]
    buffer = aligned_buffer(_CHUNK_BYTES + 2 * PAGE_BYTES)
    out_bytes = 0
    for info in infos:
        assert info.place is not None
        reader = DirectReader(info.place.file)
        for start in range(0, info.nbytes, _CHUNK_BYTES):
            reader.read(info.place.offset + start, min(_CHUNK_BYTES, info.nbytes - start), buffer)
        reader.close()
        elements = info.nbytes // DTYPES[info.dtype].itemsize
        copies = ranks.tp if "embed_tokens" in info.name else 1
        out_bytes += elements if info.name.endswith("_proj.weight") else 2 * elements * copies
    out.mkdir()
    writer = DirectWriter(out / "all.bin", out_bytes)
    for start in range(0, out_bytes, _CHUNK_BYTES):
        writer.write(start, buffer[: min(_CHUNK_BYTES, out_bytes - start)])
    writer.sync()
    writer.close()
    return sum(info.nbytes for info in infos), out_bytes


def modelopt(checkpoint: Checkpoint, out: Path, ranks: Ranks) -> tuple[int, int]:
    from tests.decoder.modelopt_oracle import export_with_modelopt
    from tests.decoder.qwen2 import random_samples

    samples = random_samples(checkpoint.config.decoder.hidden_size, (16,))
    export_with_modelopt(checkpoint, samples, {ranks.tp: out})
    read = sum(checkpoint.info(name).nbytes for name in decoder_names(checkpoint))
    return read, sum(file.stat().st_size for file in out.glob("*.safetensors"))


WORK: dict[str, Callable[[Checkpoint, Path, Ranks], tuple[int, int]]] = {
    "convert": convert,
    "simple": simple,
    "disk": disk,
    "modelopt": modelopt,
}


def decoder_names(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.names() if name.startswith("language_model.")]


def measure(what: str, folder: Path, out: Path, ranks: Ranks, answer: Any) -> None:
    """In a process of its own."""
    checkpoint = open_checkpoint(folder)
    for name in checkpoint.names():
        for file in checkpoint.files(name):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    if what == "modelopt":
        # Seconds that have nothing to do with the size of the model.
        sys.path.insert(0, str(Path(__file__).parents[1]))
        import modelopt.torch.export  # noqa: F401
    before = memory()
    with peaks() as peak:
        started, cpu = time.perf_counter(), time.process_time()
        bytes_in, bytes_out = WORK[what](checkpoint, out, ranks)
        seconds = time.perf_counter() - started
    answer.put(
        {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - cpu,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "anonymous_gb": (peak["RssAnon"] - before["RssAnon"]) / 1e9,
            "mapped_gb": (peak["RssFile"] - before["RssFile"]) / 1e9,
            "digest": digest(out) if what == "convert" else "",
        }
    )


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    peak, ended = memory(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            for name, value in memory().items():
                peak[name] = max(peak[name], value)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def digest(folder: Path) -> str:
    """Of the scales and of the first MiB of each file: enough to see a race, quick enough not to disturb."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            total.update(stream.read(1 << 20))
    return total.hexdigest()
