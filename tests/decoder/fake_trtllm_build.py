"""Stands in for ``trtllm-build`` 1.2.1: takes its flags and no others, reads the checkpoint, leaves its files.

The environment variable FAKE_TRTLLM says how to go wrong: "exit", "killed", "half" (ends well after half of the files),
"empty" (an engine without bytes), "other" (builds for another batch size).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

FLAGS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden/trtllm-build-flags.json").read_text(encoding="utf-8")
)["flags"]
_TYPES = {"int": int, "enum": str, "plugin_dtype": str, "enable_disable": str, "path": Path, "str": str, "list": str}


def make_parser() -> argparse.ArgumentParser:
    """The tool's own command line, rebuilt from the table of its flags; abbreviations are mistakes here."""
    parser = argparse.ArgumentParser(prog="trtllm-build", allow_abbrev=False)
    for name, flag in FLAGS.items():
        names = (name, *flag.get("aliases", []))
        if flag["kind"] == "store_true":
            parser.add_argument(*names, action="store_true")
        else:
            parser.add_argument(*names, type=_TYPES[flag["kind"]], choices=flag["choices"], default=flag["default"])
    return parser


def main() -> int:
    arguments = make_parser().parse_args()
    fault = os.environ.get("FAKE_TRTLLM", "")
    print("[TensorRT-LLM] TensorRT-LLM version: 1.2.1", flush=True)
    model = json.loads((arguments.checkpoint_dir / "config.json").read_text(encoding="utf-8"))
    out: Path = arguments.output_dir
    out.mkdir(parents=True, exist_ok=True)
    Path("model.cache").write_bytes(b"timings")
    if fault == "exit":
        print("Traceback: CUDA out of memory", flush=True)
        return 3
    batch_size = arguments.max_batch_size + (fault == "other")
    config = {
        "version": "1.2.1",
        "pretrained_config": model,
        "build_config": {
            "max_batch_size": batch_size,
            "max_seq_len": arguments.max_seq_len,
            "max_num_tokens": min(arguments.max_num_tokens, arguments.max_seq_len * batch_size),
            "max_prompt_embedding_table_size": arguments.max_prompt_embedding_table_size,
        },
    }
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    ranks = model["mapping"]["world_size"]
    for rank in range(ranks // 2 if fault == "half" else ranks):
        (out / f"rank{rank}.engine").write_bytes(b"" if fault == "empty" else b"plan")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
