"""Turn an NVLM-D checkpoint into a served deployment; importing this loads neither torch nor TensorRT."""

__version__ = "0.1.0"

__all__ = ["__version__"]
