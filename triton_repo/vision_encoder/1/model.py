"""Tiles to decoder rows; tiles of requests that wait together share one call of the engine, known tiles need none."""

import functools

from nvlm_trt.serving.embedding_cache import CachingEncoder, engine_key
from nvlm_trt.serving.tile_batcher import TileBatcher
from nvlm_trt.serving.triton import Parameters, TritonReply, check_wanted, read_inputs, reporting_start
from nvlm_trt.serving.triton_metrics import VisionMetrics
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
            try:
                check_wanted(request)
                tiles = read_inputs(request)["tiles"]
                self._metrics.tiles.observe(len(tiles))
                if len(tiles) == 0:
                    reply.send(self._no_pictures, final=True)
                else:
                    self._encoder.submit(tiles).add_done_callback(functools.partial(self._answer, reply))
            except Exception as error:
                reply.fail(error)

    def finalize(self):
        self._encoder.close()

    def _answer(self, reply, future):
        try:
            self._metrics.update(self._encoder.figures())
            reply.send(write_table(future.result(), self._dtype), final=True)
        except Exception as error:
            reply.fail(error)
