"""Compiles the vision graph to a plan, with TensorRT or TensorRT-RTX.

The weights go in as pointers into the mapped checkpoint and the plan comes out as a stream, so the only copy of the
weights in memory is TensorRT's own (1.06 times their size, measured at 12.3 GB). The network is strongly typed: what
the graph says is what runs, because weak typing has been seen to ruin large vision towers.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import sync_folder, writing
from nvlm_trt.errors import BuildError, UsageError
from nvlm_trt.vision.artefact import PLAN_INFO_FILE, GraphInfo, read_graph, write_artefact
from nvlm_trt.vision.graph import INPUT
from nvlm_trt.vision.plan import PlanInfo
from nvlm_trt.vision.tensorrt_callbacks import Progress, make_logger, make_monitor, make_writer, ran_out_of_memory
from nvlm_trt.vision.tensorrt_module import TensorRtKind, gpu_compute_capability, load_tensorrt
from nvlm_trt.vision.weights import map_weights

__all__ = ["build_plan"]


def build_plan(
    kind: TensorRtKind,
    vision_folder: Path,
    checkpoint_folder: Path,
    profile: tuple[int, int, int],
    plan_file: Path,
    *,
    compute_capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> PlanInfo:
    """Compile ``vision.onnx`` to ``plan_file`` and write ``vision.plan.json`` beside it.

    ``profile`` is the smallest, usual and largest number of tiles. ``compute_capabilities`` ("8.9") are for
    ahead-of-time builders, which build for all they know when none is given. ``timing_cache`` is read if it is there
    and kept.

    Raises ``MissingToolError`` E-TOOL-TENSORRT or E-TOOL-GPU, ``UsageError`` E-USAGE-PROFILE, ``BuildError``
    E-BUILD-SM, E-BUILD-PARSE, E-BUILD-ENGINE or E-BUILD-WRITE, ``ArtefactError`` for a graph or weights that cannot
    be used.
    """
    trt = load_tensorrt(kind)
    targets = _targets(trt, kind, compute_capabilities)
    model = read_graph(vision_folder)
    info = GraphInfo.of(model)
    _check_profile(profile)
    weights = map_weights(model, vision_folder, checkpoint_folder)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # The parser owns what the network points at, so it lives until the plan is written.
    parser = trt.OnnxParser(network, logger)
    _parse(parser, model, weights, kind)
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT, *((tiles, info.tile_size, info.tile_size, 3) for tiles in profile))
    config.add_optimization_profile(shapes)
    if kind.ahead_of_time:
        _set_targets(trt, config, targets)
    cache = None
    if timing_cache is not None and not kind.ahead_of_time:
        cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    compile_to = functools.partial(_compile, trt, builder, network, config, progress)
    plan_bytes = _write_plan(plan_file, compile_to, logger, kind)
    del parser
    if cache is not None and timing_cache is not None:
        write_artefact(timing_cache.parent, timing_cache.name, bytes(cache.serialize()))
    plan = PlanInfo(
        module=kind.module,
        version=str(trt.__version__),
        compute_capabilities=targets,
        profile=profile,
        tile_size=info.tile_size,
        tokens_per_tile=info.tokens_per_tile,
        output_size=info.output_size,
        dtype=info.dtype,
        plan_bytes=plan_bytes,
    )
    write_artefact(plan_file.parent, PLAN_INFO_FILE, plan.to_json().encode())
    return plan


def _targets(trt: Any, kind: TensorRtKind, asked: Sequence[str]) -> tuple[str, ...]:
    if not kind.ahead_of_time:
        here = gpu_compute_capability()
        if set(asked) - {here}:
            raise BuildError(
                "E-BUILD-SM",
                f"{kind.title} builds for the GPU it runs on, which has compute capability {here}, "
                f"not {', '.join(asked)}.",
                "Build on the GPU that will serve.",
            )
        return (here,)
    known = trt.ComputeCapability.__members__
    for target in asked:
        if _enum_name(target) not in known:
            raise BuildError(
                "E-BUILD-SM",
                f"{kind.title} {trt.__version__} cannot build for compute capability {target}; it knows "
                f"{', '.join(_number(name) for name in known if name.startswith('SM'))}.",
                "Use one of these, or the engine tensorrt.",
            )
    return tuple(asked)


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, _enum_name(target)), index)


def _check_profile(profile: tuple[int, int, int]) -> None:
    low, usual, high = profile
    if not 1 <= low <= usual <= high:
        raise UsageError(
            "E-USAGE-PROFILE",
            f"The vision profile is {list(profile)}.",
            "Give three rising numbers of tiles, from 1 up.",
        )


def _enum_name(compute_capability: str) -> str:
    return "SM" + compute_capability.replace(".", "")


def _number(enum_name: str) -> str:
    return f"{enum_name[2:-1]}.{enum_name[-1]}"


def _parse(parser: Any, model: onnx.ModelProto, weights: dict[str, NDArray[Any]], kind: TensorRtKind) -> None:
    loaded = parser.load_model_proto(model.SerializeToString())
    # A bare address: the arrays are views into mapped files and outlive the parser.
    loaded = loaded and all(
        parser.load_initializer(name, array.ctypes.data, array.nbytes) for name, array in weights.items()
    )
    if loaded and parser.parse_model_proto():
        return
    places = [parser.get_error(index) for index in range(parser.num_errors)]
    where = f" at {places[0].node_operator() or 'the model'} {places[0].node_name()}".rstrip() if places else ""
    raise BuildError(
        "E-BUILD-PARSE", f"{kind.title} cannot read vision.onnx{where}.", "Run nvlm-trt build again, or report this."
    )


def _compile(trt: Any, builder: Any, network: Any, config: Any, progress: Progress | None, file: BinaryIO) -> bool:
    """Whether a whole plan was written to ``file``; raises what a callback kept."""
    monitor = make_monitor(trt, progress) if progress is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    writer = None
    if hasattr(builder, "build_serialized_network_to_stream"):
        writer = make_writer(trt, file)
        built = bool(builder.build_serialized_network_to_stream(network, config, writer))
    else:  # older releases of TensorRT 10 hold the plan in memory
        plan = builder.build_serialized_network(network, config)
        built = plan is not None
        if built:
            file.write(plan)
    for callback in (monitor, writer):
        if callback is not None and callback.error is not None:
            raise callback.error
    return built


def _write_plan(plan_file: Path, compile_to: Callable[[BinaryIO], bool], logger: Any, kind: TensorRtKind) -> int:
    """Compile beside, sync, rename; returns the plan's size in bytes."""
    partial = plan_file.with_name(f"{plan_file.name}.partial")
    try:
        with writing(plan_file.name):
            with partial.open("wb") as file:
                if not compile_to(file):
                    raise _refused(logger.errors, kind)
                file.flush()
                os.fsync(file.fileno())
                size_bytes = file.tell()
            # A plan without its description is refused, so the old one must not describe the new plan.
            (plan_file.parent / PLAN_INFO_FILE).unlink(missing_ok=True)
            partial.replace(plan_file)
            sync_folder(plan_file.parent)
    finally:
        partial.unlink(missing_ok=True)
    return size_bytes


def _refused(errors: Sequence[str], kind: TensorRtKind) -> BuildError:
    """TensorRT's reason in our words, as far as it is one we know."""
    text = " ".join(errors).lower()
    if "hw-specific datatypes" in text:
        return BuildError(
            "E-BUILD-SM",
            "A target GPU does not know the graph's dtype.",
            "Leave out that compute capability, or build with vision.dtype float16.",
        )
    if ran_out_of_memory(errors):
        return BuildError(
            "E-BUILD-MEMORY", f"{kind.title} ran out of memory.", "Lower the largest number in vision.profile."
        )
    return BuildError("E-BUILD-ENGINE", f"{kind.title} could not compile vision.onnx.", "Run again with debug logging.")
