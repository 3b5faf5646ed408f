"""Checks a request and turns it into what the engines read."""

from nvlm_trt.model.jpeg import fastest_jpeg
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.model.resample import fastest_resample
from nvlm_trt.serving.preprocess import Preprocessor
from nvlm_trt.serving.preprocess_tensors import client_values, write_prepared
from nvlm_trt.serving.shutdown import MARKS, Shutdown
from nvlm_trt.serving.triton import (
    Parameters,
    answer_all,
    check_wanted,
    read_id,
    read_inputs,
    read_parameters,
    reporting_start,
)
from nvlm_trt.serving.triton_note import Note, open_journal


class TritonPythonModel:
    def initialize(self, args):
        parameters = Parameters(args)
        self._shutdown = Shutdown(parameters.optional(MARKS))
        with reporting_start():
            self._preprocessor = Preprocessor.from_folder(
                parameters.path("model_dir"),
                style=PromptStyle(parameters.text("prompt_style")),
                system=parameters.text("system"),
                max_images=parameters.integer("max_images"),
                max_tiles=parameters.integer("max_tiles"),
                max_seq_len=parameters.integer("max_seq_len"),
                resample=fastest_resample(),
                quick_jpeg=fastest_jpeg(),
            )
            self._journal = open_journal("preprocessing")

    def execute(self, requests):
        return answer_all(requests, self._answer)

    def finalize(self):
        self._journal.close()

    def _answer(self, request):
        note = Note("preprocessing", self._journal, request)
        try:
            check_wanted(request)
            self._shutdown.check_open()
            values = client_values(read_inputs(request), read_parameters(request))
            read_id(request)  # later steps use it: one that is no UTF-8 is refused here, before any work
            prepared = self._preprocessor.prepare_client(values)
        except Exception as error:
            note.failed(error)
            raise
        note.done(**prepared.facts())
        return write_prepared(prepared)
