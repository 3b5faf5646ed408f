"""Tokens to text, piece by piece, in whole characters."""

from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.serving.detokenize import StreamDecoder
from nvlm_trt.serving.postprocess_tensors import decode_response
from nvlm_trt.serving.triton import Parameters, answer_all, read_id, read_inputs, reporting_start


class TritonPythonModel:
    def initialize(self, args):
        with reporting_start():
            tokenizer = NvlmTokenizer.from_folder(Parameters(args).path("model_dir"))
        self._decoder = StreamDecoder(tokenizer)
        self._eos_id = tokenizer.eos_id

    def execute(self, requests):
        return answer_all(requests, self._answer)

    def _answer(self, request):
        return decode_response(self._decoder, read_inputs(request), read_id(request), self._eos_id)
