"""The vision engines by name. To add one, write its module and an entry in ``BACKENDS``.

Importing this loads none of their libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from nvlm_trt.errors import UsageError
from nvlm_trt.vision.engine import VisionEngine

__all__ = ["BACKENDS", "Backend", "build_engine", "load_engine"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Backend:
    """``load`` makes an engine of a vision folder; ``build`` compiles its graph, for engines that run a plan."""

    load: Callable[[Path, Path, int, int | None], VisionEngine]
    build: Callable[..., None] | None = None


def load_engine(
    kind: str, vision_folder: Path, checkpoint_folder: Path, max_tiles: int, *, threads: int | None = None
) -> VisionEngine:
    """A running engine for at most ``max_tiles`` tiles a call.

    ``checkpoint_folder`` is where the graph's weights lie, for engines that read it and not a plan; ``threads`` is for
    engines that compute on the CPU (all cores when not given).
    Raises ``UsageError`` E-USAGE-ENGINE for an unknown name, and what the engine raises.
    """
    return _backend(kind).load(vision_folder, checkpoint_folder, max_tiles, threads)


def build_engine(
    kind: str,
    vision_folder: Path,
    checkpoint_folder: Path,
    profile: tuple[int, int, int],
    plan_file: Path | None = None,
    *,
    compute_capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Compile the graph to ``plan_file`` (``vision.plan`` beside the graph when not given), with its description in
    ``vision.plan.json`` beside it. Engines that read the graph itself have nothing to build.

    ``progress`` is called with steps done, steps known so far and their unit.
    Raises ``UsageError`` E-USAGE-ENGINE for an unknown name, and what the builder raises.
    """
    build = _backend(kind).build
    if build is not None:
        build(
            vision_folder,
            checkpoint_folder,
            profile,
            plan_file or vision_folder / "vision.plan",
            compute_capabilities=compute_capabilities,
            timing_cache=timing_cache,
            progress=progress,
        )


def _load_onnxruntime(
    vision_folder: Path, checkpoint_folder: Path, max_tiles: int, threads: int | None
) -> VisionEngine:
    from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(vision_folder, checkpoint_folder, max_tiles, threads=threads)


def _load_tensorrt(
    kind: str, vision_folder: Path, _checkpoint_folder: Path, max_tiles: int, _threads: int | None
) -> VisionEngine:
    from nvlm_trt.vision.tensorrt_engine import TensorRtEngine
    from nvlm_trt.vision.tensorrt_module import TENSORRT_KINDS

    return TensorRtEngine(TENSORRT_KINDS[kind], vision_folder, max_tiles)


def _build_tensorrt(
    kind: str,
    vision_folder: Path,
    checkpoint_folder: Path,
    profile: tuple[int, int, int],
    plan_file: Path,
    *,
    compute_capabilities: Sequence[str],
    timing_cache: Path | None,
    progress: Progress | None,
) -> None:
    from nvlm_trt.vision.tensorrt_builder import build_plan
    from nvlm_trt.vision.tensorrt_module import TENSORRT_KINDS

    build_plan(
        TENSORRT_KINDS[kind],
        vision_folder,
        checkpoint_folder,
        profile,
        plan_file,
        compute_capabilities=compute_capabilities,
        timing_cache=timing_cache,
        progress=progress,
    )


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "onnxruntime": Backend(_load_onnxruntime),
        "tensorrt": Backend(partial(_load_tensorrt, "tensorrt"), partial(_build_tensorrt, "tensorrt")),
        "tensorrt_rtx": Backend(partial(_load_tensorrt, "tensorrt_rtx"), partial(_build_tensorrt, "tensorrt_rtx")),
    }
)


def _backend(kind: str) -> Backend:
    if kind not in BACKENDS:
        raise UsageError("E-USAGE-ENGINE", f"There is no vision engine {kind!r}.", f"Use {', '.join(BACKENDS)}.")
    return BACKENDS[kind]
