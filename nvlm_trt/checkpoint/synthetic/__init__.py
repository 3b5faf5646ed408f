"""Synthetic NVLM-D checkpoints: everything as in the release, of any size, with random weights from a seed."""

from nvlm_trt.checkpoint.synthetic.generated import GeneratedCheckpoint
from nvlm_trt.checkpoint.synthetic.size import SIZES, CheckpointSize
from nvlm_trt.checkpoint.synthetic.writer import write_checkpoint, write_checkpoint_of

__all__ = ["SIZES", "CheckpointSize", "GeneratedCheckpoint", "write_checkpoint", "write_checkpoint_of"]
