"""Tokens to text, piece by piece, in whole characters; for an answer nobody wants, a stop to the decoder instead."""

from nvlm_trt.errors import CancelledError
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.serving.detokenize import StreamDecoder
from nvlm_trt.serving.postprocess_tensors import decode_response
from nvlm_trt.serving.shutdown import MARKS, Shutdown
from nvlm_trt.serving.triton import (
    Parameters,
    answer_all,
    check_wanted,
    read_id,
    read_inputs,
    reporting_start,
    stop_decoder,
)
from nvlm_trt.serving.triton_note import open_journal


class TritonPythonModel:
    def initialize(self, args):
        parameters = Parameters(args)
        self._shutdown = Shutdown(parameters.optional(MARKS))
        with reporting_start():
            tokenizer = NvlmTokenizer.from_folder(parameters.path("model_dir"))
            self._journal = open_journal("postprocessing")
        self._decoder = StreamDecoder(tokenizer)
        self._eos_id = tokenizer.eos_id

    def execute(self, requests):
        return answer_all(requests, self._answer)

    def finalize(self):
        self._journal.close()

    def _answer(self, request):
        request_id = read_id(request)
        try:
            self._shutdown.check_going()
            check_wanted(request)
        except CancelledError:
            self._decoder.finish(request_id)
            stop_decoder(request_id)
            raise
        tensors = read_inputs(request)
        outputs = decode_response(self._decoder, tensors, request_id, self._eos_id)
        # For each response: which is the last, nobody tells this model.
        self._journal.line(request_id, tokens=int(tensors["sequence_length"].flat[0]))
        return outputs
