"""Tiles to decoder rows; tiles of requests that wait together share one call of the engine, known tiles need none."""

import functools

from nvlm_trt.serving.embedding_cache import CachingEncoder, engine_key
from nvlm_trt.serving.tile_batcher import TileBatcher
from nvlm_trt.serving.triton import Parameters, TritonReply, check_wanted, read_inputs, reporting_start
from nvlm_trt.serving.triton_metrics import VisionMetrics
from nvlm_trt.serving.triton_note import Note, open_journal
from nvlm_trt.serving.vision_tensors import empty_table, write_table
from nvlm_trt.vision.registry import load_engine


class TritonPythonModel:
    def initialize(self, args):
        parameters = Parameters(args)
        with reporting_start():
            engine = load_engine(
                parameters.text("engine"),
                parameters.path("vision_dir"),
                parameters.path("checkpoint_dir"),
                parameters.integer("max_tiles"),
            )
            self._journal = open_journal("vision_encoder")
        self._dtype = parameters.text("table_dtype")
        self._no_pictures = empty_table(engine.output_size, self._dtype)
        self._metrics = VisionMetrics()
        self._encoder = CachingEncoder(
            TileBatcher(engine, share_calls=parameters.flag("share_calls"), waited=self._metrics.queue_s.observe),
            engine_key(parameters.text("engine"), self._dtype, parameters.path("vision_dir")),
            parameters.integer("cache_bytes"),
        )

    def execute(self, requests):
        for request in requests:
            reply = TritonReply(request)
            note = Note("vision", self._journal, request)
            try:
                check_wanted(request)
                tiles = read_inputs(request)["tiles"]
                self._metrics.tiles.observe(len(tiles))
                if len(tiles) == 0:
                    note.done(tiles=0)
                    reply.send(self._no_pictures, final=True)
                else:
                    encoded = self._encoder.submit(tiles)
                    encoded.add_done_callback(functools.partial(self._answer, reply, note, len(tiles)))
            except Exception as error:
                note.failed(error)
                reply.fail(error)

    def finalize(self):
        self._encoder.close()
        self._journal.close()

    def _answer(self, reply, note, num_tiles, future):
        try:
            self._metrics.update(self._encoder.figures())
            table = write_table(future.result(), self._dtype)
            note.done(tiles=num_tiles)
            reply.send(table, final=True)
        except Exception as error:
            note.failed(error)
            reply.fail(error)
