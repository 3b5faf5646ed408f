"""A model's ``config.pbtxt`` as a protobuf message. Edits go through the message, never through its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nvlm_trt.errors import ArtefactError

__all__ = ["ModelConfig", "read_model_config", "set_parameter", "set_type", "write_model_config"]

ModelConfig = Any
"""``inference.ModelConfig``; the generated module has no types."""


def read_model_config(file: Path) -> ModelConfig:
    """Raises ``ArtefactError`` E-ARTEFACT-TRITON for a file that is missing or no model configuration."""
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        raise ArtefactError(
            "E-ARTEFACT-TRITON",
            f"The Triton configuration of {file.parent.name} is missing or damaged.",
            "Build the deployment again.",
        ) from None


def write_model_config(config: ModelConfig, file: Path) -> None:
    """Same message, same bytes."""
    file.write_text(text_format.MessageToString(config), encoding="utf-8")


def set_parameter(config: ModelConfig, key: str, value: str | float | bool) -> None:
    config.parameters[key].string_value = str(value).lower() if isinstance(value, bool) else str(value)


def set_type(config: ModelConfig, tensor: str, data_type: str) -> None:
    """Give input or output ``tensor`` another type, such as "TYPE_FP32". A name that matches nothing is a bug."""
    found = [entry for entry in (*config.input, *config.output) if entry.name == tensor]
    if not found:
        raise KeyError(tensor)
    for entry in found:
        entry.data_type = model_config_pb2.DataType.Value(data_type)
