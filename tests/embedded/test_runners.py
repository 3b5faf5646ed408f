"""The registry: which runner a name gives, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from nvlm_trt.embedded.compiled.runner import CompiledRunner
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner
from nvlm_trt.errors import MissingToolError, UsageError


def open_engine(folder, runner):
    return EmbeddedEngine(folder, runner=runner, max_batch_size=2, max_seq_len=64, max_num_tokens=34, threads=1)


def test_the_cpu_gets_compiled_code(decoder_folder):
    engine = open_engine(decoder_folder, "cpu")
    assert isinstance(engine._pool.runner, CompiledRunner)
    engine.close()


def test_an_unknown_runner_is_refused(decoder_folder):
    with pytest.raises(UsageError) as caught:
        open_engine(decoder_folder, "jax")
    assert caught.value.code == "E-USAGE-RUNNER"
    assert "cpu, compiled, onnxruntime, torch" in caught.value.fix


def test_without_a_compiler_the_cpu_gets_onnxruntime(decoder_folder, monkeypatch, caplog):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llvmlite" else found(name))
    with pytest.raises(MissingToolError) as caught:
        open_engine(decoder_folder, "compiled")
    assert caught.value.code == "E-TOOL-LLVM"
    engine = open_engine(decoder_folder, "cpu")
    assert isinstance(engine._pool.runner, OnnxRuntimeRunner)
    assert "pip install 'nvlm-trt[fast]'" in caplog.text
    engine.close()


def test_without_torch_the_message_says_what_to_install(decoder_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingToolError) as caught:
        open_engine(decoder_folder, "torch")
    assert caught.value.code == "E-TOOL-TORCH"
    assert "pip install 'nvlm-trt[torch]'" in caught.value.fix
