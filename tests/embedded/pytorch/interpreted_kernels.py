"""Holds the Triton kernels against the plain operations, in Triton's interpreter. Run by ``test_triton_ops``.

The interpreter takes milliseconds for a program, so shapes are small; each is odd in some way.
"""

from __future__ import annotations

import warnings

import torch

from nvlm_trt.embedded.pytorch import triton_kernels, triton_ops
from nvlm_trt.embedded.pytorch.ops import Fp8Input, Ops, PlainOps, Step, rotary_tables
from nvlm_trt.embedded.pytorch.triton_ops import TritonOps
from nvlm_trt.model.config import DecoderConfig

CONFIG = DecoderConfig(
    hidden_size=40, intermediate_size=1100, num_layers=1, num_heads=6, num_kv_heads=2, head_dim=24, norm_eps=1e-6,
    rope_theta=1e6, max_positions=256, vocab_size=8,
)  # fmt: skip
BLOCK_SIZE, NUM_BLOCKS, WIDTH = 8, 40, 20
NEXT_TO_NOTHING = {torch.float32: 2e-6, torch.float16: 2e-3}


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


def compare(name, plain, kernels):
    assert plain.dtype == kernels.dtype, name
    assert plain.shape == kernels.shape, name
    if plain.dtype == torch.float8_e4m3fn:
        # One bit of float32 may tip a value over the border of two e4m3 numbers; hardly ever two in a small tensor.
        differ = (plain.view(torch.uint8) != kernels.view(torch.uint8)).float().mean()
        assert differ < 0.01, (name, differ)
        plain, kernels = plain.float(), kernels.float()
        assert (plain - kernels).abs().max() <= 0.13 * plain.abs().max(), name
        return
    error = (plain.double() - kernels.double()).abs().max() / plain.double().abs().max()
    assert error < NEXT_TO_NOTHING[plain.dtype], (name, float(error))


def steps():
    """Sequences in any blocks, so short that splits stay empty, and so long that none does; chunks of a prompt, one
    from the middle on and of more than one tile."""
    tables = torch.randperm(NUM_BLOCKS)[: 2 * WIDTH].view(2, WIDTH).int()
    yield Step(torch.tensor([0, 64, 150], dtype=torch.int32), tables[[0, 1, 0]], together=False)
    for start, count in ((0, 2), (61, 8)):
        positions = torch.arange(start, start + count, dtype=torch.int32)
        yield Step(positions, tables[:1].expand(count, -1), together=True)


def check(dtype, into, steps):
    rotary = rotary_tables(CONFIG, 256, torch.device("cpu"))
    plain: Ops = PlainOps(CONFIG, rotary)
    kernels: Ops = TritonOps(CONFIG, rotary)
    hidden, weight = normal(3, CONFIG.hidden_size, dtype=dtype), normal(CONFIG.hidden_size)
    for branch in (None, normal(3, CONFIG.hidden_size, dtype=dtype)):
        pairs = (ops.add_norm(hidden.clone(), branch, weight, into) for ops in (plain, kernels))
        for one, other in zip(*pairs, strict=True):
            compare("add_norm", one, other)
    fc_gate = 3 * normal(2, 2 * CONFIG.intermediate_size, dtype=dtype)
    compare("gated", plain.gated(fc_gate, into), kernels.gated(fc_gate, into))
    bias = normal(CONFIG.qkv_size, dtype=dtype)
    for step in steps:
        cache = normal(2, NUM_BLOCKS, CONFIG.num_kv_heads, BLOCK_SIZE, CONFIG.head_dim, dtype=dtype)
        caches = [cache.clone(), cache.clone()]
        qkv = normal(len(step.positions), CONFIG.qkv_size, dtype=dtype)
        queries = [one.rotate_and_store(qkv, bias, caches[index], step) for index, one in enumerate((plain, kernels))]
        compare("query", *queries)
        compare("cache", *caches)
        compare("attend", *(ops.attend(queries[0], caches[0], step, into) for ops in (plain, kernels)))


def check_stale_positions():
    """What lies beyond the length is not read."""
    rotary = rotary_tables(CONFIG, 256, torch.device("cpu"))
    cache = torch.full((2, NUM_BLOCKS, CONFIG.num_kv_heads, BLOCK_SIZE, CONFIG.head_dim), torch.nan)
    cache[:, 3, :, :5] = normal(2, CONFIG.num_kv_heads, 5, CONFIG.head_dim)
    step = Step(torch.tensor([4], dtype=torch.int32), torch.full((1, WIDTH), 3, dtype=torch.int32), together=False)
    query = normal(1, CONFIG.num_heads, CONFIG.head_dim)
    mixed = [ops(CONFIG, rotary).attend(query, cache, step, None) for ops in (PlainOps, TritonOps)]
    compare("stale", *mixed)


def check_rounding():
    """To e4m3, at every border between two numbers, on either side of it, and beyond the range."""
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    borders = (numbers[1:] + numbers[:-1]) / 2
    near = torch.stack([borders, borders.nextafter(numbers[1:]), borders.nextafter(numbers[:-1])]).flatten()
    values = torch.cat([numbers, near, torch.tensor([449.0, 1e30])])
    values = torch.cat([values, -values])
    count = len(values)
    out = torch.empty(1, count, dtype=torch.float8_e4m3fn)
    triton_kernels.join_kernel[(1,)](
        values, torch.zeros(1), torch.tensor(1.0), out, DIM=count, SPLITS=1, QUANTISE=True, S=1, D=1024
    )
    assert torch.equal(out[0].float(), values.clamp(-448, 448).to(torch.float8_e4m3fn).float())


def main() -> None:
    warnings.simplefilter("error")
    torch.manual_seed(0)
    triton_ops._PROGRAMS, triton_ops._PROMPT_TILE = 18, 16  # three splits of a sequence, five rows of a prompt
    several, *prompts = steps()
    check(torch.float32, None, [several, *prompts])
    check(torch.float16, None, prompts[1:])
    for stored in (torch.float8_e4m3fn, torch.float32):
        check(torch.float32, Fp8Input(torch.tensor(0.01), stored), [several])
    check_stale_positions()
    check_rounding()
    print("equal")


if __name__ == "__main__":
    main()
