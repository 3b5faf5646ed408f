"""The embedded decoder behind TensorRT-LLM's tensors. Not used in production, where the backend is TensorRT-LLM's."""

from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.serving.decoder_calls import DecoderCalls
from nvlm_trt.serving.decoder_record import note_record
from nvlm_trt.serving.shutdown import MARKS, Shutdown
from nvlm_trt.serving.triton import Parameters, TritonReply, read_id, read_inputs, reporting_start
from nvlm_trt.serving.triton_metrics import DecoderMetrics
from nvlm_trt.serving.triton_note import Note, open_journal


class TritonPythonModel:
    def initialize(self, args):
        parameters = Parameters(args)
        with reporting_start():
            engine = EmbeddedEngine(
                parameters.path("gpt_model_path"),
                runner=parameters.text("runner"),
                max_batch_size=parameters.max_batch_size,
                max_seq_len=parameters.integer("max_seq_len"),
                max_num_tokens=parameters.integer("max_num_tokens"),
                quantize_activations=parameters.flag("quantize_activations"),
            )
            self._journal = open_journal("tensorrt_llm")
        self._metrics = DecoderMetrics()
        shutdown = Shutdown(parameters.optional(MARKS))
        self._calls = DecoderCalls(engine, self._metrics.update, self._tell, shutdown.check_going)

    def execute(self, requests):
        for request in requests:
            reply, note = TritonReply(request), Note("queue", self._journal, request)
            try:
                self._calls.take(read_id(request), read_inputs(request), reply, note.trace)
            except Exception as error:
                note.failed(error)
                reply.fail(error)

    def finalize(self):
        self._calls.close()
        self._journal.close()

    def _tell(self, record):
        self._metrics.ended(record)
        note_record(self._journal, record)
