"""A plan as text for a person: on the terminal and in the docs."""

from __future__ import annotations

from collections.abc import Iterator

from nvlm_trt.cli.output import shown_bytes
from nvlm_trt.plan.cost import RATE_ORIGINS
from nvlm_trt.plan.planner import Plan
from nvlm_trt.plan.roofline import ASSUMED
from nvlm_trt.plan.weights import vision_weight_bytes

__all__ = ["plan_text"]


def plan_text(plan: Plan) -> str:
    parts = (_head(plan), _model(plan), _memory(plan), _speed(plan), _fits(plan), _build(plan), _choices(plan))
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part)


def _head(plan: Plan) -> Iterator[str]:
    gpu = plan.recipe.gpu
    where = f"{gpu.count} x {gpu.name}" if gpu and plan.recipe.production else "no GPU"
    yield f"recipe {plan.recipe.name}, {where}"
    work, config = plan.workload, plan.config
    yield (
        f"request: pictures {work.pictures} ({work.num_tiles(config)} tiles), text {work.text_tokens}, answer "
        f"{work.answer_tokens} tokens: {work.prompt_tokens(config)} in, {work.total_tokens(config)} in all"
    )


def _model(plan: Plan) -> Iterator[str]:
    by_tp = ", ".join(f"tp {tp}: {shown_bytes(size)}" for tp, size in plan.decoder_bytes_by_tp.items())
    kv = plan.kv_bytes_per_token
    yield "bytes (exact)"
    yield f"  decoder weights   {plan.recipe.decoder.quantization}, on each GPU: {by_tp}"
    yield f"  vision weights    {shown_bytes(vision_weight_bytes(plan.config, plan.recipe.vision))}"
    yield f"  KV cache          {kv['bf16']:,} B a token in BF16, {kv['fp8']:,} B in FP8, over all GPUs"
    yield f"  prompt table      {shown_bytes(plan.prompt_table_bytes)}: {plan.prompt_table_rows} rows"


def _memory(plan: Plan) -> Iterator[str]:
    memory, limit = plan.memory, plan.recipe.decoder.max_batch_size
    if memory is None or plan.num_requests is None:
        return
    yield f"memory of the fullest GPU, {shown_bytes(memory.capacity_bytes)}"
    for name, size, how in (
        ("decoder weights", memory.weight_bytes, "exact"),
        ("activations", memory.activation_bytes, "estimate, from max_num_tokens"),
        ("prompt table", memory.prompt_table_bytes, "exact, of the whole batch"),
        ("requests' tables", memory.request_table_bytes, "exact, where each request of the batch has all its pictures"),
        ("vision weights", memory.vision_weight_bytes, "exact"),
        ("vision activations", memory.vision_activation_bytes, "estimate, 3.5 times the widest tensor of each tile"),
        ("vision cache", memory.vision_cache_bytes, "the recipe's: rows of tiles seen before"),
        ("reserve", memory.reserve_bytes, "estimate: CUDA context, workspaces, fragmentation"),
        ("KV pool", memory.kv_bytes, f"95% of the rest: {memory.kv_tokens:,} tokens"),
    ):
        yield f"  {name:19}{shown_bytes(size):>9}  {how}"
    yield f"  requests at once   {min(plan.num_requests, limit):>9}  KV pool {plan.num_requests}, batch {limit}"


def _speed(plan: Plan) -> Iterator[str]:
    quick = plan.speed
    if quick is None:
        return
    yield "speed (roofline, not measured)"
    yield (
        f"  first token        {quick.time_to_first_token_s * 1000:6.0f} ms  "
        f"alone: vision {quick.vision_s * 1000:.0f} ms, prompt {quick.prefill_s * 1000:.0f} ms"
    )
    yield f"  one request        {quick.alone_tokens_s:6.0f} tokens/s"
    yield (
        f"  {quick.num_full:<3} at once        {quick.full_tokens_s:6.0f} tokens/s together, "
        f"prompts of newcomers included; a step {quick.step_full_s * 1000:.0f} ms"
    )
    yield "  assumed:"
    values = plan.assumptions.to_json()
    yield from (f"    {values[name]:<8g} {meaning}" for name, meaning in ASSUMED.items())


def _fits(plan: Plan) -> Iterator[str]:
    yield "what fits: such requests whose KV cache is there at once"
    yield f"  {'GPU':12} {'tp':>2}  {'weights each':>12}  {'BF16 cache':>10}  {'FP8 cache':>9}"
    for fit in plan.fits:
        counts = [str(fit.num_requests[kind]) if fit.num_requests[kind] else "-" for kind in ("bf16", "fp8")]
        yield f"  {fit.gpu:12} {fit.tp:>2}  {shown_bytes(fit.weight_bytes):>12}  {counts[0]:>10}  {counts[1]:>9}"


def _build(plan: Plan) -> Iterator[str]:
    yield "build (extrapolated)"
    yield f"  {'step':20} {'reads':>9} {'writes':>9} {'memory':>9}  time"
    for cost in plan.costs:
        sizes = (shown_bytes(size) for size in (cost.reads_bytes, cost.writes_bytes, cost.memory_bytes))
        reads, writes, memory = sizes
        time = f"{'over ' if cost.at_least else ''}{shown_time(cost.seconds)}"
        yield f"  {cost.step:20} {reads:>9} {writes:>9} {memory:>9}  {time}"
    yield (
        f"  in all: {shown_bytes(plan.disk_bytes)} of disk beside the checkpoint, "
        f"{shown_bytes(plan.build_memory_bytes)} of memory at most, {shown_time(plan.build_seconds)}"
    )
    yield f"  rates, and about {plan.samples.tokens:,} tokens and {plan.samples.tiles} tiles of calibration:"
    values = plan.rates.to_json()
    yield from (f"    {values[name]:<8g} {meaning}" for name, meaning in RATE_ORIGINS.items())


def _choices(plan: Plan) -> Iterator[str]:
    yield "choices"
    for choice in plan.choices:
        yield f"  {choice.name:25} {choice.value:12} {choice.reason}"


def shown_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
