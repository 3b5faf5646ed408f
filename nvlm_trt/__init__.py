"""Turn an NVLM-D checkpoint into a served deployment; importing this loads neither torch nor TensorRT.

It also turns off the usage reports that libraries send by default (docs/decisions/0260-nothing-is-reported.md).
"""

import os

__version__ = "0.1.0"

__all__ = ["__version__"]

for _switch in ("ORT_DISABLE_TELEMETRY", "TRTLLM_NO_USAGE_STATS"):
    os.environ.setdefault(_switch, "1")
