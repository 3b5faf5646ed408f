"""Tensors of a file that ``torch.save`` wrote, mapped without torch and without running anything from the file."""

from nvlm_trt.checkpoint.torch_file.file import TorchFile
from nvlm_trt.checkpoint.torch_file.values import OPAQUE, StorageRef, TensorRef

__all__ = ["OPAQUE", "StorageRef", "TensorRef", "TorchFile"]
