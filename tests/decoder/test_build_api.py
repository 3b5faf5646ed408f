"""The Python API's form of a build against the command line's, and against a stand-in of the API's modules."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from nvlm_trt.decoder.build_api import build_config, build_rank
from nvlm_trt.decoder.build_command import prompt_table_rows
from nvlm_trt.errors import MissingToolError
from tests.decoder.fake_trtllm_build import make_parser
from tests.decoder.test_build_command import command, recipe_with
from tests.release import RELEASE

RECIPE = recipe_with(tp=2, max_batch_size=4)


def test_it_says_what_the_command_line_says() -> None:
    parsed = vars(make_parser().parse_args(command(RECIPE)[1:]))
    told = build_config(RECIPE, RELEASE)
    assert told["strongly_typed"] is True
    for name, value in {**told, **told["plugin_config"]}.items():
        if name not in ("plugin_config", "strongly_typed"):
            assert parsed[name] == value, name
    given = {word.removeprefix("--") for word in command(RECIPE) if word.startswith("--")}
    renamed = {"max_multimodal_len": "max_prompt_embedding_table_size"}
    said = {renamed.get(name, name) for name in given} - {"checkpoint_dir", "output_dir", "workers", "log_level"}
    assert said == (told.keys() | told["plugin_config"].keys()) - {"plugin_config", "strongly_typed"}


def test_a_rank_is_built_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Engine:
        def save(self, folder: str) -> None:
            calls.append(("save", folder))

    class Model:
        @staticmethod
        def from_checkpoint(folder: str, rank: int) -> str:
            calls.append(("load", (folder, rank)))
            return "model"

    def build(model: str, config: dict[str, Any]) -> Engine:
        calls.append(("build", (model, config)))
        return Engine()

    builder = types.ModuleType("tensorrt_llm.builder")
    builder.__dict__.update(BuildConfig=dict, KVCacheType=types.SimpleNamespace(PAGED="the paged one"), build=build)
    models = types.ModuleType("tensorrt_llm.models")
    models.__dict__.update(QWenForCausalLM=Model)
    plugin = types.ModuleType("tensorrt_llm.plugin")
    plugin.__dict__.update(PluginConfig=dict)
    for module in (types.ModuleType("tensorrt_llm"), builder, models, plugin):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    build_rank(RECIPE, RELEASE, tmp_path / "in", tmp_path / "out", 1)
    assert [name for name, _ in calls] == ["load", "build", "save"]
    assert calls[0][1] == (str(tmp_path / "in"), 1)
    config = calls[1][1][1]
    assert config["kv_cache_type"] == "the paged one"
    assert config["max_prompt_embedding_table_size"] == prompt_table_rows(RECIPE, RELEASE)
    assert config["plugin_config"]["gemm_plugin"] == "disable"


def test_without_the_package_the_container_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="E-TOOL-TRTLLM"):
        build_rank(RECIPE, RELEASE, tmp_path, tmp_path, 0)
