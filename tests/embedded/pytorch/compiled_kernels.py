"""Compiles the Triton kernels for a GPU that is not there, down to its machine code. Run by ``test_triton_ops``.

The full-size decoder's shapes on Hopper, BF16 with FP8 results: what the interpreter cannot see is whether the compiler
takes them.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nvlm_trt.embedded.pytorch import triton_kernels as kernels

_TYPES = {
    **dict.fromkeys(("hidden", "branch", "qkv", "bias", "query", "cache", "fc_gate"), "*bf16"),
    **dict.fromkeys(("weight", "scale", "cos", "sin", "shares", "weights"), "*fp32"),
    **dict.fromkeys(("positions", "tables"), "*i32"),
    **dict.fromkeys(("width", "table_stride", "num_rows"), "i32"),
    "out": "*fp8e4nv",
    "eps": "fp32",
    "kind_stride": "i64",
}
_SHAPE = {"HEADS": 64, "KV_HEADS": 8, "DIM": 128, "BLOCK_SIZE": 32}


def compiled(kernel: Any, warps: int, constants: dict[str, Any], **types: str) -> Any:
    types = {**_TYPES, **types}
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def main() -> None:
    prompt = {**_SHAPE, "ROWS": 16, "SPLITS": 1, "M": 128, "N": 64, "D": 128}
    answer = {**prompt, "ROWS": 1, "SPLITS": 32, "M": 16}
    made = {
        "add_norm": compiled(kernels.add_norm_kernel, 8, {"ADD": True, "QUANTISE": True, "BLOCK": 8192}),
        "rotate": compiled(kernels.rotate_and_store_kernel, 1, {**_SHAPE, "HALF": 64}),
        "prompt": compiled(kernels.attend_kernel, 8, prompt, scale="fp32"),
        "answer": compiled(kernels.attend_kernel, 4, answer, scale="fp32"),
        "join": compiled(kernels.join_kernel, 1, {"DIM": 128, "SPLITS": 32, "QUANTISE": True, "S": 32, "D": 128}),
        "gated": compiled(kernels.gated_kernel, 4, {"QUANTISE": True, "BLOCK": 1024}),
    }
    for name, kernel in made.items():
        print(name, len(kernel.asm["cubin"]) > 0, "wgmma" in kernel.asm["ptx"])


if __name__ == "__main__":
    main()
