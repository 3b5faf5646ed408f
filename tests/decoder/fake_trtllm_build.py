"""Stands in for ``trtllm-build`` 1.2.1: takes its flags and no others, reads the checkpoint, says what the real one
says, leaves its files. ``install`` puts it on a PATH the way an installer does, with the version of its package.

The environment variable FAKE_TRTLLM says how to go wrong:

    exit            an error nobody knows, exit status 3
    gpu memory      CUDA runs out of memory
    host memory     the kernel kills it
    host memory 137 a shell in between says so with its exit status
    allocation      an allocation fails
    terminated      somebody sends SIGTERM
    disk            the disk is full
    half            ends well after half of the ranks
    cut             ends well with an engine cut short
    empty           ends well with engines without bytes
    other           builds for another batch size
    no version      a config.json without a version
    flags           an older tool, which refuses a flag
    hangs           builds for ever, after saying its process id
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

FLAGS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden/trtllm-build-flags.json").read_text(encoding="utf-8")
)["flags"]
_TYPES = {"int": int, "enum": str, "plugin_dtype": str, "enable_disable": str, "path": Path, "str": str, "list": str}


def install(folder: Path, version: str = "1.2.1", says: str | None = None) -> None:
    """``folder/bin/trtllm-build``, and the metadata of its package; ``says`` is the version that its log names."""
    site, script = folder / "site", folder / "bin" / "trtllm-build"
    info = site / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")
    script.parent.mkdir()
    # The interpreter that finds the package above; installers write this form where its path has blanks.
    python = folder / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    script.write_text(
        f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"
        f"import runpy, sys\nsys.argv[0] = 'trtllm-build'\n"
        f"import os\nos.environ['FAKE_TRTLLM_SAYS'] = {says or version!r}\n"
        f"runpy.run_path({__file__!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    script.chmod(0o755)


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


def say(text: str) -> None:
    print(f"[11/22/2026-12:00:00] [TRT-LLM] [I] {text}", flush=True)


def main() -> int:
    print(f"[TensorRT-LLM] TensorRT-LLM version: {os.environ.get('FAKE_TRTLLM_SAYS', '1.2.1')}", flush=True)
    fault = os.environ.get("FAKE_TRTLLM", "")
    parser = make_parser()
    if fault == "flags":
        parser.error("unrecognized arguments: --kv_cache_type paged")
    arguments = parser.parse_args()
    model = json.loads((arguments.checkpoint_dir / "config.json").read_text(encoding="utf-8"))
    out: Path = arguments.output_dir
    out.mkdir(parents=True, exist_ok=True)
    ranks = model["mapping"]["world_size"]
    for rank in range(ranks // 2 if fault == "half" else ranks):
        say("Build TensorRT engine Unnamed Network 0")
        fail_early(fault)
        say("Total time of building Unnamed Network 0: 00:00:41")
        weights = (arguments.checkpoint_dir / f"rank{rank}.safetensors").read_bytes()
        if rank == 0:
            write_config(out, arguments, model, fault)
        say(f"Serializing engine to {out}/rank{rank}.engine...")
        engine = {"empty": b"", "cut": weights[: len(weights) // 2]}.get(fault, b"ftrt" + weights)
        (out / f"rank{rank}.engine").write_bytes(engine)
        if fault == "disk":
            print("OSError: [Errno 28] No space left on device", flush=True)
            return 1
        say("Engine serialized. Total time: 00:00:07")
    Path("model.cache").write_bytes(b"timings")
    say("Total time of building all engines: 00:01:39")
    return 0


def fail_early(fault: str) -> None:
    if fault == "exit":
        print("Traceback (most recent call last):\nAssertionError: secret at 0x7f00", flush=True)
        raise SystemExit(3)
    if fault == "gpu memory":
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.13 GiB.", flush=True)
        raise SystemExit(1)
    if fault == "allocation":
        print("MemoryError: std::bad_alloc", flush=True)
        raise SystemExit(1)
    if fault == "host memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "host memory 137":
        raise SystemExit(137)
    if fault == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "hangs":
        print(f"PID {os.getpid()}", flush=True)
        time.sleep(600)


def write_config(out: Path, arguments: argparse.Namespace, model: Any, fault: str) -> None:
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
    if fault == "no version":
        del config["version"]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
