"""One precision's answers to all questions, through the embedded engine, in the files that ``eval run`` writes.

Each line has three more keys: the answer's ``tokens``, why it ``ended``, and the number of ``tiles`` of its pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.request import Emission, FinishReason, GenerationRequest
from nvlm_trt.errors import NvlmError
from nvlm_trt.evaluate.asking import in_parallel
from nvlm_trt.evaluate.output_file import OutputFile
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.run import Reporter
from nvlm_trt.evaluate.task import Record, Sample, Task
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.precision.decoder import StudiedDecoder
from nvlm_trt.precision.prompts import Prompts, StoredPrompt

__all__ = ["answer_all", "request_of"]


def request_of(prompt: StoredPrompt, max_tokens: int, end_id: int) -> GenerationRequest:
    """The question as a request of the engine: greedy, like everything that is compared here."""
    table = prompt.rows if len(prompt.rows) else None
    return GenerationRequest("", prompt.ids, max_tokens, prompt_table=table, end_id=end_id)


def answer_all(
    decoder: StudiedDecoder,
    task: Task,
    samples: Sequence[Sample],
    prompts: Prompts,
    tokenizer: NvlmTokenizer,
    max_tokens: int,
    file: Path,
    reporter: Reporter,
) -> list[Record]:
    """Answer the questions whose answers ``file`` does not hold yet. Returns all records, in the questions' order.

    Raises what the engine raises, and ``UsageError`` E-EVAL-OUTPUT, E-EVAL-IN-USE.
    """
    with OutputFile(file) as output:
        records: dict[int | str, Mapping[str, Any]] = {record["sample_id"]: record for record in output.records}
        left = [index for index, sample in enumerate(samples) if sample.sample_id not in records]
        reporter.started(len(samples), len(samples) - len(left))
        if left:
            errors = 0
            engine = decoder.open_engine()

            def ask(asked: tuple[Sample, StoredPrompt]) -> dict[str, Any]:
                sample, prompt = asked
                record = {"sample_id": sample.sample_id, "prompt": sample.prompt, task.answer_key: "", **sample.fields}
                if prompt.error is not None:
                    record["error"] = prompt.error
                else:
                    tokens, ended = _answer(engine, request_of(prompt, max_tokens, tokenizer.eos_id))
                    record[task.answer_key] = tokenizer.decode_bytes(tokens).decode(errors="replace").strip()
                    record |= {"tokens": tokens, "ended": ended.value, "tiles": prompt.tiles}
                task.complete(record, Rules())
                return record

            try:
                asked = ((samples[index], prompts[index]) for index in left)
                for (sample, _), record in in_parallel(ask, asked, decoder.recipe.max_batch_size):
                    output.append(record)
                    records[sample.sample_id] = record
                    errors += "error" in record
                    reporter.advanced(len(records), errors)
            finally:
                engine.close()
        ordered = [records[sample.sample_id] for sample in samples]
        output.finish(ordered)
        return ordered


def _answer(engine: EmbeddedEngine, request: GenerationRequest) -> tuple[list[int], FinishReason]:
    tokens: list[int] = []
    last: list[Emission] = []
    ended = threading.Event()

    def listen(emission: Emission) -> None:
        tokens.extend(emission.tokens)
        if emission.finish is not None:
            last.append(emission)
            ended.set()

    engine.submit(request, listen)
    ended.wait()
    finish, error = last[0].finish, last[0].error
    if error is not None or finish is None:
        raise error or NvlmError("E-ENGINE-FAULT", "The decoder engine ended an answer without a reason.")
    return tokens, finish
