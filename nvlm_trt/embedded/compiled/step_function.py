"""The step's code for a decoder's sizes, compiled once per process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nvlm_trt.embedded.compiled.layout import Layout
from nvlm_trt.embedded.compiled.number_format import Bfloat16, Float16
from nvlm_trt.embedded.compiled.step_code import StepWriter, num_phases
from nvlm_trt.embedded.compiled.vector_writer import VectorWriter
from nvlm_trt.machine_code import MachineCode, host_features
from nvlm_trt.model.config import DecoderConfig

__all__ = ["StepFunction", "step_function"]

_PLAIN = {"BF16": Bfloat16, "F16": Float16}


@dataclass(frozen=True, slots=True)
class StepFunction:
    layout: Layout
    code: MachineCode

    @property
    def num_phases(self) -> int:
        return num_phases(self.layout.config.num_layers)


@lru_cache(maxsize=8)
def step_function(config: DecoderConfig, dtype: str, max_seq_len: int, without: tuple[str, ...] = ()) -> StepFunction:
    """``dtype`` is the safetensors tag of what is not e4m3; ``without`` lists prefixes of processor features not to
    use.
    """
    features = {name: has and not name.startswith(without) for name, has in host_features().items()}
    w = VectorWriter(features)
    layout = Layout.of(config, max_seq_len, w)
    StepWriter(w, layout, _PLAIN[dtype]()).write()
    return StepFunction(layout, MachineCode(w.module, features))
