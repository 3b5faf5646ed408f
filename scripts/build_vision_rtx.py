"""Export a checkpoint's vision half and compile it with TensorRT-RTX, on a machine without a GPU; time and memory.

    python scripts/make_checkpoint.py /tmp/full --preset full --layers 1 --shards 8   # 25 GB
    python scripts/build_vision_rtx.py /tmp/full /tmp/vision -c 8.9
    python scripts/build_vision_rtx.py /tmp/full /tmp/vision -c 8.9 -c 12.0 --json

Memory is sampled every 20 ms and told apart: anonymous is what the machine must have; the rest of the resident set
is pages of the mapped checkpoint, which the system takes back when it needs them. Exit status 1 when an attention was
not fused into one kernel.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import NvlmError
from nvlm_trt.vision.artefact import GRAPH_FILE, PLAN_FILE, read_graph
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.plan_kernels import count_kernels, fused_attentions
from nvlm_trt.vision.tensorrt_builder import build_plan
from nvlm_trt.vision.tensorrt_module import TENSORRT_KINDS
from scripts.facts import facts, show_facts


class Measured:
    """Time and peak memory of what is done inside it, with what the process had before left in."""

    def __enter__(self) -> Measured:
        self.peaks_kib = {"RssAnon": 0, "VmRSS": 0}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = time.process_time() - self._cpu_started
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in self.peaks_kib:
                    self.peaks_kib[key] = max(self.peaks_kib[key], int(value.split()[0]))
            if self._done.wait(0.02):
                return

    def figures(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "peak_anonymous_gb": round(self.peaks_kib["RssAnon"] * 1024 / 1e9, 2),
            "peak_resident_gb": round(self.peaks_kib["VmRSS"] * 1024 / 1e9, 2),
        }


def _advance(what: str) -> Any:
    """Progress on a terminal, nothing elsewhere."""

    def show(done: int, total: int, unit: str) -> None:
        end = "\n" if done == total else ""
        click.echo(f"\r{what}: {done} of {total} {unit} ", nl=False, err=True)
        click.echo(end, nl=False, err=True)

    return show if sys.stderr.isatty() else None


def _export(checkpoint_folder: Path, out: Path, dtype: Any) -> dict[str, Any]:
    checkpoint = open_checkpoint(checkpoint_folder)
    with Measured() as measured:
        export = export_vision(checkpoint, out, dtype, progress=_advance("export"))
    graph = read_graph(out).graph
    return {
        **measured.figures(),
        "graph_kb": round((out / GRAPH_FILE).stat().st_size / 1e3, 1),
        "weights_pointed_at": export.num_pointed,
        "weights_written": export.num_written,
        "written_gb": round(export.written_bytes / 1e9, 3),
        "nodes": len(graph.node),
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
    }


def _build(checkpoint: Path, out: Path, profile: tuple[int, int, int], targets: tuple[str, ...]) -> dict[str, Any]:
    with Measured() as measured:
        plan = build_plan(
            TENSORRT_KINDS["tensorrt_rtx"],
            out,
            checkpoint,
            profile,
            out / PLAN_FILE,
            compute_capabilities=targets,
            progress=_advance("compile"),
        )
    kernels = count_kernels(out / PLAN_FILE)
    return {
        **measured.figures(),
        "builder": f"{plan.module} {plan.version}",
        "compute_capabilities": list(targets) or "all it knows",
        "profile": list(profile),
        "plan_gb": round(plan.plan_bytes / 1e9, 3),
        "kernels": sum(kernels.values()),
        "kinds_of_kernel": len(kernels),
        "fused_attentions": fused_attentions(kernels),
    }


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("-c", "--compute-capability", "targets", multiple=True, help='"8.9"; may be repeated. All if not given.')
@click.option("--profile", type=int, nargs=3, default=(1, 7, 28), show_default=True, help="Tiles: least, usual, most.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@click.option("--export-only", is_flag=True, help="Leave the compiler out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def main(
    checkpoint: Path,
    out: Path,
    targets: tuple[str, ...],
    profile: tuple[int, int, int],
    dtype: str,
    export_only: bool,
    as_json: bool,
) -> None:
    circumstances = facts()
    try:
        vision = open_checkpoint(checkpoint).config.vision
        report: dict[str, Any] = {"circumstances": circumstances, "export": _export(checkpoint, out, dtype)}
        if not export_only:
            report["build"] = _build(checkpoint, out, profile, targets)
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for part, figures in report.items():
            click.echo(part)
            show_facts(figures)
    if not export_only and dtype != "float32" and report["build"]["fused_attentions"] != vision.num_layers:
        raise click.ClickException(f"{vision.num_layers} attentions, not all of them fused into one kernel each.")


if __name__ == "__main__":
    main()
