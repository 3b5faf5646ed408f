from __future__ import annotations

from nvlm_trt.deploy.figures import TritonFigures, parse_figures

EMBEDDED = """# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="postprocessing",version="1"} 19
nv_inference_request_success{model="ensemble",version="1"} 2
nv_inference_pending_request_count{model="preprocessing",version="1"} 1
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 2
nvlm_decoder_requests{state="waiting"} 3
nvlm_decoder_requests{state="running"} 4
nvlm_decoder_requests{state="unsent"} 1
nvlm_decoder_healthy 1
"""
PRODUCTION = """nv_inference_request_success{model="postprocessing",version="1"} 5
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
"""


def test_what_is_open_is_queued_or_in_the_decoder():
    assert parse_figures(EMBEDDED) == TritonFigures(answered=19, open=11)


def test_the_same_of_tensorrt_llm():
    """Its backend tells as waiting what is active and not scheduled: the difference of these two."""
    assert parse_figures(PRODUCTION) == TritonFigures(answered=5, open=2)


def test_nothing_is_told_of_nothing():
    assert parse_figures("") == TritonFigures(answered=0, open=0)
