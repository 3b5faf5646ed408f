"""The few of Triton's metrics that tell whether it works and whether it is idle."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nvlm_trt.client.direct import read_page

__all__ = ["TritonFigures", "parse_figures", "read_figures"]

_TIMEOUT_S = 1.0
_LINE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TritonFigures:
    """``answered`` grows with every piece of an answer that any request gets. ``open`` counts requests that are not
    over: in the decoder, or queued before a model, as pieces of an answer are before the last one.
    """

    answered: float
    open: float


def read_figures(metrics_url: str) -> TritonFigures:
    """Raises ``OSError``, ``ValueError``."""
    return parse_figures(read_page(metrics_url, _TIMEOUT_S).decode())


def parse_figures(text: str) -> TritonFigures:
    """The figures in Prometheus text. The decoder's are the embedded one's or TensorRT-LLM's, whichever there are."""

    def total(name: str, *labels: str) -> float:
        lines = ((found[2] or "", found[3]) for found in _LINE.finditer(text) if found[1] == name)
        return sum(float(value) for given, value in lines if all(label in given for label in labels))

    # TensorRT-LLM's "waiting" are those of its active requests that have no part in the step that runs.
    decoder = total("nvlm_decoder_requests") + total("nv_trt_llm_request_metrics", 'request_type="active"')
    queued = total("nv_inference_pending_request_count")
    return TritonFigures(total("nv_inference_request_success", 'model="postprocessing"'), queued + decoder)
