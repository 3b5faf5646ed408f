from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2

from nvlm_trt.deploy.model_config import read_model_config, set_type
from nvlm_trt.deploy.repository import MODELS, render_repository, write_repository
from nvlm_trt.errors import ArtefactError
from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.serving.parameters import SUPPORTED, UNSUPPORTED
from tests.release import RELEASE

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "triton-tensorrt_llm-io.json").read_text(encoding="utf-8"))
FORMS = [("embedded", "TYPE_FP32"), ("h200x1-fp8", "TYPE_BF16")]
type_name = model_config_pb2.DataType.Name


def fields_of(tensor, table_type: str) -> dict[str, Any]:
    """One tensor of a config in the form of the contract, with the chosen types put back to their variables."""
    fields = {"name": tensor.name, "data_type": type_name(tensor.data_type), "dims": list(tensor.dims)}
    if tensor.HasField("reshape"):
        fields["reshape"] = list(tensor.reshape.shape)
    if isinstance(tensor, model_config_pb2.ModelInput):
        fields["optional"] = tensor.optional
        if tensor.allow_ragged_batch:
            fields["allow_ragged_batch"] = True
    variables = {
        "prompt_embedding_table": (table_type, "${prompt_embedding_table_data_type}"),
        "encoder_input_features": (table_type, "${encoder_input_features_data_type}"),
        "draft_logits": ("TYPE_FP32", "${logits_datatype}"),
        "context_logits": ("TYPE_FP32", "${logits_datatype}"),
        "generation_logits": ("TYPE_FP32", "${logits_datatype}"),
    }
    chosen, variable = variables.get(tensor.name, ("", ""))
    if fields["data_type"] == chosen:
        fields["data_type"] = variable
    return fields


def _is_safe(tensor: dict[str, Any]) -> bool:
    """Whether Triton knows the tensor's size without multiplying: one value, or a list of texts, which it counts."""
    return bool(tensor["dims"] == [1] or (tensor["data_type"] == "TYPE_STRING" and tensor["dims"] == [-1]))


def without_notes(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "note"}


@pytest.mark.parametrize(("recipe", "table_type"), FORMS)
def test_the_decoder_keeps_the_contract_tensor_by_tensor(small_config, recipe, table_type):
    decoder = render_repository(load_recipe(recipe, small_config), small_config)["tensorrt_llm"]
    assert [fields_of(tensor, table_type) for tensor in decoder.input] == [without_notes(e) for e in GOLDEN["inputs"]]
    assert [fields_of(tensor, table_type) for tensor in decoder.output] == [without_notes(e) for e in GOLDEN["outputs"]]
    assert (len(decoder.input), len(decoder.output)) == (62, 21)


def test_production_parameters_are_those_of_the_contract(small_config):
    recipe = load_recipe("h200x1-fp8", small_config)
    decoder = render_repository(recipe, small_config)["tensorrt_llm"]
    contract = {entry["key"]: entry for entry in GOLDEN["parameters"]}
    values = {key: parameter.string_value for key, parameter in decoder.parameters.items()}
    assert values.keys() <= contract.keys()
    assert {key for key, entry in contract.items() if entry["required"]} <= values.keys()
    for key, value in values.items():
        assert value in contract[key].get("choices", [value]), key
    assert decoder.backend == GOLDEN["backend"]
    assert values["gpt_model_type"] == "inflight_fused_batching"
    assert values["gpt_model_path"] == "/deployment/decoder/engine"
    # Pictures share blocks by their extra ids, and the prompt's virtual ids must not come back.
    assert values["enable_kv_cache_reuse"] == "true"
    assert values["exclude_input_in_output"] == "true"
    # The plan's KV pool, whichever of the two engines loads first.
    assert values["max_tokens_in_paged_kv_cache"] == str(recipe.decoder.max_kv_tokens)
    assert recipe.decoder.max_kv_tokens > 0
    assert decoder.max_batch_size == recipe.decoder.max_batch_size
    assert list(decoder.dynamic_batching.preferred_batch_size) == [recipe.decoder.max_batch_size]
    assert decoder.model_transaction_policy.decoupled
    group = GOLDEN["other_sections"]["instance_group"][0]
    assert [
        (entry.count, model_config_pb2.ModelInstanceGroup.Kind.Name(entry.kind)) for entry in decoder.instance_group
    ] == [(group["count"], group["kind"])]


def test_the_embedded_form_differs_from_production_only_where_it_must(small_config):
    embedded, production = (
        render_repository(load_recipe(name, small_config), small_config)["tensorrt_llm"] for name, _ in FORMS
    )
    embedded.backend = production.backend
    embedded.max_batch_size = production.max_batch_size
    embedded.dynamic_batching.CopyFrom(production.dynamic_batching)
    for name in ("prompt_embedding_table", "encoder_input_features"):
        set_type(embedded, name, "TYPE_BF16")
    embedded.parameters.clear()
    production.parameters.clear()
    assert embedded == production


def test_the_ensemble_takes_the_names_upstreams_clients_send(small_config):
    models = render_repository(load_recipe("h200x1-fp8", small_config), small_config)
    names = GOLDEN["client_names"]
    upstream = {entry["name"]: entry for entry in [*names["multimodal_ensemble_inputs"], *names["ensemble_inputs"]]}
    for model in ("ensemble", "preprocessing"):
        tensors = {tensor.name: tensor for tensor in models[model].input}
        # Ours alone: upstream's ensemble has no turns. Optional, so that upstream's clients need not know of it.
        talk = fields_of(tensors.pop("conversation"), "")
        assert talk == {**upstream["text_input"], "name": "conversation", "optional": True}
        ours = [fields_of(tensor, "") for tensor in tensors.values()]
        assert ours == [upstream[tensor["name"]] for tensor in ours]
        taken = {tensor["name"] for tensor in ours}
        assert taken >= SUPPORTED - {"conversation"}
        assert taken <= SUPPORTED | UNSUPPORTED.keys()
        # What is not taken has a size that can lie.
        left = [entry for entry in names["multimodal_ensemble_inputs"] if entry["name"] not in taken]
        assert all(entry["name"] in UNSUPPORTED and not _is_safe(entry) for entry in left)
        assert all(_is_safe(tensor) for tensor in ours)
    upstream_outputs = {entry["name"]: entry for entry in names["ensemble_outputs"]}
    for output in models["ensemble"].output:
        assert fields_of(output, "") == upstream_outputs[output.name]


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_tensor_of_the_ensemble_is_made_once_and_used(recipe):
    models = render_repository(load_recipe(recipe, RELEASE), RELEASE)
    ensemble = models["ensemble"]
    made = {tensor.name: tensor for tensor in ensemble.input}
    used: set[str] = set()
    for step in ensemble.ensemble_scheduling.step:
        inputs = {tensor.name: tensor for tensor in models[step.model_name].input}
        outputs = {tensor.name: tensor for tensor in models[step.model_name].output}
        required = {name for name, tensor in inputs.items() if not tensor.optional}
        assert required <= set(step.input_map) <= inputs.keys(), step.model_name
        for name, tensor in step.input_map.items():
            assert made[tensor].data_type == inputs[name].data_type, (step.model_name, name)
            used.add(tensor)
        for name, tensor in step.output_map.items():
            assert tensor not in made, f"{tensor} is made twice"
            made[tensor] = outputs[name]
    wanted = {tensor.name for tensor in ensemble.output}
    assert wanted <= made.keys()
    assert made.keys() == used | wanted


@pytest.mark.parametrize("recipe", recipe_names())
def test_written_repositories_are_complete_and_the_same_each_time(tmp_path, recipe):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_repository(load_recipe(recipe, RELEASE), RELEASE, folder)
        contents.append(
            {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
        )
    assert contents[0] == contents[1]
    for name in MODELS:
        config = read_model_config(tmp_path / "one" / name / "config.pbtxt")
        assert config.name == name
        assert (tmp_path / "one" / name / "1" / "model.py").exists() == (config.backend == "python")
        assert (tmp_path / "one" / name / "1").is_dir()


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_repository_says_nothing_of_the_machine_it_was_made_on(recipe):
    for model in render_repository(load_recipe(recipe, RELEASE), RELEASE).values():
        for key, parameter in model.parameters.items():
            if parameter.string_value.startswith("/"):
                assert parameter.string_value.split("/")[1] in ("deployment", "checkpoint", "opt"), key


@pytest.mark.parametrize(("limit", "written"), [(None, "6"), (2, "2"), (12, "12")])
def test_a_recipe_may_bound_the_tiles_of_a_picture(small_config, limit, written):
    recipe = load_recipe("embedded", small_config)
    bounded = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"max_tiles": limit})})
    models = render_repository(bounded, small_config)
    assert models["preprocessing"].parameters["max_tiles"].string_value == written


def test_sizes_come_from_the_recipe(small_config):
    recipe = load_recipe("embedded", small_config)
    models = render_repository(recipe, small_config)
    assert models["preprocessing"].parameters["max_seq_len"].string_value == str(recipe.decoder.max_seq_len)
    assert models["preprocessing"].parameters["max_images"].string_value == str(recipe.prompt.max_images)
    assert models["vision_encoder"].parameters["max_tiles"].string_value == str(recipe.vision.profile[2])
    assert models["tensorrt_llm"].parameters["quantize_activations"].string_value == "true"
    assert models["tensorrt_llm"].parameters["runner"].string_value == "cpu"
    assert models["tensorrt_llm"].max_batch_size == recipe.decoder.max_batch_size


@pytest.mark.parametrize("text", ["", "name: 1", "max_inflight: 2", "\udcff"])
def test_a_damaged_configuration_is_an_artefact_error(tmp_path, text):
    file = tmp_path / "model" / "config.pbtxt"
    file.parent.mkdir()
    if text:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-TRITON: .* model "):
        read_model_config(file)


def test_an_edit_that_matches_nothing_is_a_bug(small_config):
    decoder = render_repository(load_recipe("embedded", small_config), small_config)["tensorrt_llm"]
    with pytest.raises(KeyError, match="prompt_table"):
        set_type(decoder, "prompt_table", "TYPE_FP32")
