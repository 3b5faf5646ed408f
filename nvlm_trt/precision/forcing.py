"""What each precision would have said at every step of the reference's answers.

The reference's logits are written to one file, ``reference.f32``, as float32 [positions, vocab]; every other precision
is compared with them while its own are computed. A precision's figures are written when they are complete, so a kill
costs only the precision in progress.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import publish, write_beside, writing
from nvlm_trt.embedded.forced import forced_logits
from nvlm_trt.evaluate.run import Reporter
from nvlm_trt.precision.answers import request_of
from nvlm_trt.precision.decoder import StudiedDecoder
from nvlm_trt.precision.divergence import divergence
from nvlm_trt.precision.prompts import Prompts

__all__ = ["ForcedAnswer", "ForcedQuestion", "compare_forced", "forced_answers"]


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """The reference's answer to question ``index`` of the prompts. ``positions`` counts its tokens, and the end token
    if it ended with one.
    """

    index: int
    sample_id: int | str
    tokens: tuple[int, ...]
    positions: int


@dataclass(frozen=True, slots=True)
class ForcedQuestion:
    """For each position, ``kl`` in nats, and ``same``: whether its largest logit is the reference's."""

    sample_id: int | str
    kl: tuple[float, ...]
    same: tuple[bool, ...]


def forced_answers(records: Sequence[Mapping[str, Any]], count: int) -> list[ForcedAnswer]:
    """The first ``count`` of the reference's records that have an answer, in the questions' order."""
    usable = [(index, record) for index, record in enumerate(records) if "error" not in record]
    return [
        ForcedAnswer(
            index,
            record["sample_id"],
            tuple(record["tokens"]),
            len(record["tokens"]) + (record["ended"] == "end_id"),
        )
        for index, record in usable[:count]
    ]


def compare_forced(
    folder: Path,
    name: str,
    key: Mapping[str, str],
    decoder: StudiedDecoder,
    prompts: Prompts,
    answers: Sequence[ForcedAnswer],
    end_id: int,
    reporter: Reporter,
) -> list[ForcedQuestion]:
    """``key["reference"]`` and ``key["own"]`` identify the two; where they are equal the logits are written down.

    Raises what opening the decoder does, ``BuildError`` E-BUILD-WRITE, E-BUILD-SPACE.
    """
    file, logits_file = folder / f"{name}.json", folder / "reference.f32"
    reporter.started(len(answers), 0)
    wanted = [[answer.sample_id, *answer.tokens] for answer in answers]
    known = _known(file, key, wanted)
    own = key["own"] == key["reference"]
    if known is not None and (logits_file.is_file() or not own):
        reporter.advanced(len(answers), 0)
        return known
    found: list[ForcedQuestion] = []
    with writing(folder.name):
        folder.mkdir(parents=True, exist_ok=True)
        logits = (folder / "reference.f32.partial").open("w+b") if own else logits_file.open("rb")
    with logits:
        for answer, rows in zip(answers, _rows(decoder, prompts, answers, end_id), strict=True):
            if own:
                with writing(logits_file.name):
                    logits.write(np.ascontiguousarray(rows, "<f4").data)
                reference = rows
            else:
                reference = np.frombuffer(logits.read(rows.nbytes), "<f4").reshape(rows.shape)
            same = rows.argmax(axis=1) == reference.argmax(axis=1)
            kl = divergence(reference, rows)
            found.append(ForcedQuestion(answer.sample_id, tuple(kl.tolist()), tuple(same.tolist())))
            reporter.advanced(len(found), 0)
    if own:
        with writing(logits_file.name):
            (folder / "reference.f32.partial").replace(logits_file)
    content = {"format": 1, "key": dict(key), "answers": wanted, "questions": [asdict(one) for one in found]}
    write_beside(file, json.dumps(content).encode())
    publish([file])
    return found


def _rows(
    decoder: StudiedDecoder, prompts: Prompts, answers: Sequence[ForcedAnswer], end_id: int
) -> Iterator[NDArray[np.float32]]:
    """Of each answer, its logits [positions, vocab]."""
    pool = decoder.open_pool()
    forced = (
        (request_of(prompts[answer.index], max(1, len(answer.tokens)), end_id), answer.tokens) for answer in answers
    )
    try:
        for answer, rows in zip(answers, forced_logits(pool, decoder.limits, forced), strict=True):
            yield rows[: answer.positions]
    finally:
        getattr(pool.runner, "close", _nothing)()


def _known(file: Path, key: Mapping[str, str], answers: list[list[int | str]]) -> list[ForcedQuestion] | None:
    """What an earlier run found, if it compared the same answers."""
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != 1 or content["key"] != dict(key) or content["answers"] != answers:
            return None
        return [ForcedQuestion(one["sample_id"], tuple(one["kl"]), tuple(one["same"])) for one in content["questions"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _nothing() -> None:
    pass
