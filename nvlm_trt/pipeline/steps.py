"""The steps of a build, as data.

    inspect → vision.* → decoder.* → triton.repository

An engine that reads the shared artefact itself (ONNX Runtime, the embedded decoder) has no engine step. The halves'
steps are in ``vision_steps`` and ``decoder_steps``.
"""

from __future__ import annotations

import shutil

from nvlm_trt.pipeline.decoder_steps import decoder_steps
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.vision_steps import vision_steps

__all__ = ["steps_for"]

# What preprocessing needs of a model folder; a checkpoint has the tokenizer in one form or the other.
_DOCUMENTS = (
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def steps_for(recipe: Recipe) -> list[Step]:
    """The recipe's steps in the order above."""
    return [_INSPECT, *vision_steps(recipe), *decoder_steps(recipe), _REPOSITORY]


def _inspect(context: StepContext) -> None:
    from nvlm_trt.serving.preprocess import Preprocessor

    # Here, so that a model no prompt can be made for shows before the long work and not after, or only to the server.
    Preprocessor.from_folder(context.checkpoint.root, max_images=1, max_seq_len=1)
    folder = context.into / "model"
    folder.mkdir()
    for name in _DOCUMENTS:
        source = context.checkpoint.root / name
        if source.is_file():
            shutil.copyfile(source, folder / name)


def _repository(context: StepContext) -> None:
    from nvlm_trt.deploy.repository import write_repository

    write_repository(context.recipe, context.checkpoint.config, context.into / "triton_repo")


_INSPECT = Step(
    name="inspect",
    run=_inspect,
    tensors=("",),
    documents=_DOCUMENTS,
    outputs=("model",),
)

_REPOSITORY = Step(
    name="triton.repository",
    run=_repository,
    artefacts=("model/config.json",),
    resources=("triton_repo",),
    values=("decoder", "prompt", "vision"),
    outputs=("triton_repo",),
    code=("decoder.build_command", "deploy.repository"),
    libraries=("protobuf",),
)
