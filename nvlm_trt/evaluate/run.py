"""Asks a server every question of a data set, and keeps the answers.

Three things can go wrong with a question, and each is visible. A picture that is missing, or a request that the
server's models refuse, becomes a record with the error's code under ``error``; it scores nothing, is counted, and is
asked again when the run is repeated. If the server is full the question is asked again later. A server that fails ends
the run; the answers so far are kept, and the same command goes on from there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient, open_client
from nvlm_trt.errors import NvlmError, OverloadedError, RequestError, ServerError
from nvlm_trt.evaluate.asking import in_parallel
from nvlm_trt.evaluate.data_set import DataSet, Duplicate, partition
from nvlm_trt.evaluate.failures import mixed_runs
from nvlm_trt.evaluate.output_file import OutputFile, output_file
from nvlm_trt.evaluate.rules import NoAnswer, Rules
from nvlm_trt.evaluate.settings import RunSettings, keep_settings
from nvlm_trt.evaluate.task import Sample, Task

__all__ = ["Reporter", "RunOptions", "RunResult", "pictures_of", "run"]

_BUSY_WAITS_S = (0.2, 0.5, 1, 2, 4, 8, 8, 8)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """``partition`` counts from 0. ``limit`` asks only the first questions. ``max_tokens`` None is the task's own.

    ``deployment`` says what the server serves, as ``load.result.Deployed`` has it: a report joins results by it.
    """

    concurrency: int = 8
    max_tokens: int | None = None
    first_line: bool = False
    no_answer: NoAnswer = "first"
    seed: int = 0
    partition: int = 0
    num_partitions: int = 1
    limit: int | None = None
    timeout_s: float = 300.0
    deployment: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """Of this partition. ``kept`` answers were there from before; ``errors`` counts codes; ``asked_s`` is seconds."""

    file: str
    questions: int
    kept: int
    empty: int
    errors: Mapping[str, int]
    duplicates: tuple[Duplicate, ...]
    repaired: bool
    asked_s: float

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}


class Reporter(Protocol):
    def started(self, total: int, kept: int) -> None: ...

    def advanced(self, done: int, errors: int) -> None: ...


def run(task: Task, data: DataSet, url: str, out: Path, options: RunOptions, reporter: Reporter) -> RunResult:
    """Raises ``ServerError`` E-SERVER-EVAL; ``UsageError`` E-EVAL-MIXED, E-EVAL-OUTPUT, E-EVAL-IN-USE, E-USAGE-URL."""
    chosen = data.samples[: options.limit]
    samples = partition(chosen, options.partition, options.num_partitions)
    asking = AskOptions(max_tokens=options.max_tokens or task.max_tokens)
    rules = Rules(no_answer=options.no_answer, seed=options.seed)
    keep_settings(
        out,
        RunSettings(
            task=task.name,
            num_samples=len(chosen),
            data_sha256=data.digest(),
            max_tokens=asking.max_tokens,
            first_line=options.first_line,
            no_answer=options.no_answer,
            seed=options.seed,
            num_partitions=options.num_partitions,
            deployment=options.deployment,
        ),
    )
    with (
        open_client(url, options.timeout_s) as client,
        OutputFile(output_file(out, task.name, options.partition)) as file,
    ):
        records = _kept(file, samples)
        kept = len(records)
        reporter.started(len(samples), kept)
        left = [sample for sample in samples if sample.sample_id not in records]
        errors = 0
        begun_s = time.monotonic()

        def ask(sample: Sample) -> dict[str, Any]:
            return _record(task, data, client, sample, asking, options.first_line, rules)

        try:
            for sample, record in in_parallel(ask, left, options.concurrency):
                file.append(record)
                records[sample.sample_id] = record
                errors += "error" in record
                reporter.advanced(len(records), errors)
        except NvlmError as error:
            raise ServerError(
                "E-SERVER-EVAL",
                f"The server failed after {len(records):,} of {len(samples):,} questions: {error.what.rstrip('.')} "
                f"({error.code}).",
                "The answers are kept. When the server runs again, the same command goes on from there.",
            ) from error
        ordered = [records[sample.sample_id] for sample in samples]
        file.finish(ordered)
    return RunResult(
        file=file.path.name,
        questions=len(ordered),
        kept=kept,
        empty=sum(not record[task.answer_key] and "error" not in record for record in ordered),
        errors=dict(sorted(Counter(record["error"] for record in ordered if "error" in record).items())),
        duplicates=data.duplicates,
        repaired=file.repaired,
        asked_s=time.monotonic() - begun_s,
    )


def _kept(file: OutputFile, samples: Sequence[Sample]) -> dict[int | str, dict[str, Any]]:
    """The answers that are there already; those with an error are asked again."""
    prompts = {sample.sample_id: sample.prompt for sample in samples}
    kept: dict[int | str, dict[str, Any]] = {}
    for record in file.records:
        sample_id = record["sample_id"]
        if prompts.get(sample_id) != record.get("prompt"):
            raise mixed_runs(f"{file.path.name} has another question than the data set under id {sample_id!r}.")
        if "error" not in record:
            kept.setdefault(sample_id, record)
    return kept


def _record(
    task: Task,
    data: DataSet,
    client: GrpcClient | HttpClient,
    sample: Sample,
    options: AskOptions,
    first_line: bool,
    rules: Rules,
) -> dict[str, Any]:
    record: dict[str, Any] = {"sample_id": sample.sample_id, "prompt": sample.prompt, task.answer_key: ""}
    record |= sample.fields
    try:
        text = _patient(client, sample.prompt, pictures_of(data, sample), options).strip()
        record[task.answer_key] = text.partition("\n")[0].strip() if first_line else text
    except RequestError as error:
        record["error"] = error.code
    task.complete(record, rules)
    return record


def pictures_of(data: DataSet, sample: Sample) -> list[bytes]:
    pictures = []
    for name in sample.pictures:
        path = data.picture(name)
        try:
            if path is None:
                raise FileNotFoundError
            pictures.append(path.read_bytes())
        except OSError:
            raise RequestError("E-IMAGE-FILE", f"{name} cannot be read.", "Name a picture file.") from None
    return pictures


def _patient(client: GrpcClient | HttpClient, prompt: str, pictures: list[bytes], options: AskOptions) -> str:
    for wait_s in _BUSY_WAITS_S:
        try:
            return client.ask(prompt, pictures, options).text
        except OverloadedError:
            time.sleep(wait_s)
    return client.ask(prompt, pictures, options).text
