"""One rank's ``model_optim_rng.pt``: the tensors under ``model``, checked to be weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from nvlm_trt.checkpoint.torch_file import TensorRef, TorchFile
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["RankFile"]

_FLOATS = ("BF16", "F32", "F16")
# Before it, the rows of the fused query-key-value tensors were ordered otherwise.
_VERSION = 3.0
# Transformer Engine's: FP8 histories and the like, of no weight's concern.
_EXTRA_STATE = "._extra_state"


class RankFile:
    """``tensors`` by Megatron-Core's names; whatever else the file holds (training arguments, optimizer, random
    states, extra states of Transformer Engine) is left alone.

    Raises ``CheckpointError``: E-CKPT-SHARD, E-CKPT-HEADER, E-CKPT-PICKLE (see ``TorchFile``), E-CKPT-VERSION,
    E-CKPT-TENSOR for what is not one model's tensors, E-CKPT-DTYPE.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.label = label
        self.file = TorchFile(path, label)
        saved = self.file.value
        if not isinstance(saved, dict):
            raise self._foreign("it holds no dict")
        version = saved.get("checkpoint_version")
        if version != _VERSION:
            raise CheckpointError(
                "E-CKPT-VERSION",
                f"{label} has checkpoint_version {shown(version)}; {_VERSION} is read.",
                "Load and save the checkpoint with a newer Megatron-LM.",
            )
        iteration = saved.get("iteration")
        self.iteration = iteration if type(iteration) is int else None
        self.tensors = self._tensors(saved)
        self.file.locate(self.tensors.values())

    def _tensors(self, saved: Mapping[object, object]) -> Mapping[str, TensorRef]:
        model = saved.get("model")
        if not isinstance(model, dict):
            if "model0" in saved:
                raise self._foreign("its stage is cut into virtual stages (model0, model1, ...)")
            raise self._foreign("it holds no model")
        tensors: dict[str, TensorRef] = {}
        for name, value in model.items():
            if not isinstance(name, str):
                raise self._foreign("its model has a key that is not a text")
            if name.endswith(_EXTRA_STATE):
                continue
            if not isinstance(value, TensorRef):
                raise self._foreign(f"{shown(name)} is not a tensor")
            if value.dtype not in _FLOATS:
                raise CheckpointError(
                    "E-CKPT-DTYPE",
                    f"{shown(name)} in {self.label} has dtype {value.dtype}; {', '.join(_FLOATS)} can be read.",
                    "Use the model as trained, not a quantised copy.",
                )
            tensors[name] = value
        return MappingProxyType(tensors)

    def _foreign(self, fault: str) -> CheckpointError:
        return CheckpointError(
            "E-CKPT-TENSOR",
            f"{self.label} is not a rank of a plain model: {fault}.",
            "Save the model with Megatron-Core in its torch format, without virtual pipeline stages.",
        )
