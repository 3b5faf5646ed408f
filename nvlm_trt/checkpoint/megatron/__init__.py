"""The Megatron-Core layout: a checkpoint cut into tensor-parallel ranks and pipeline stages."""

from nvlm_trt.checkpoint.megatron.checkpoint import MegatronCheckpoint

__all__ = ["MegatronCheckpoint"]
