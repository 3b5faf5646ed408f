"""What must be true between the ranks of one checkpoint, and between them and the config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nvlm_trt.checkpoint.megatron.rank_file import RankFile
from nvlm_trt.checkpoint.megatron.sources import DECODER_LAYER, Source
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["check_iterations", "check_names", "check_tensor", "layers_per_stage"]

_Stages = Sequence[Sequence[RankFile]]
_SAME_RUN = "Fetch the ranks again, all of one iteration."


def check_iterations(stages: _Stages, number: int | None) -> None:
    """All ranks are of one iteration, and of that ``number`` where their folder has one. Raises E-CKPT-RANK."""
    first = stages[0][0]
    for rank in (rank for stage in stages for rank in stage):
        if rank.iteration != first.iteration:
            other = f"{first.label} of {first.iteration}"
        elif number is not None and rank.iteration != number:
            other = f"its folder of {number}"
        else:
            continue
        raise CheckpointError("E-CKPT-RANK", f"{rank.label} is of iteration {rank.iteration}, {other}.", _SAME_RUN)


def layers_per_stage(stages: _Stages, num_layers: int) -> list[int]:
    """The decoder layers of each stage, by their highest number, ``num_layers`` in all. Raises E-CKPT-TENSOR."""
    numbered = re.compile(rf"{re.escape(DECODER_LAYER)}(\d{{1,6}})\.", re.ASCII)
    counts = []
    for first, *_ in stages:
        matches = (numbered.match(name) for name in first.tensors)
        counts.append(max((1 + int(match[1]) for match in matches if match), default=0))
    if sum(counts) != num_layers:
        raise CheckpointError(
            "E-CKPT-TENSOR",
            f"The pipeline stages hold {' + '.join(map(str, counts))} decoder layers; "
            f"config.json asks for {num_layers}.",
            "Fetch the whole checkpoint, and use the config.json that belongs to it.",
        )
    return counts


def check_names(stages: _Stages, sources: Mapping[str, Source]) -> None:
    """Every rank has the tensors of its stage and no others. Raises E-CKPT-TENSOR."""
    for number, stage in enumerate(stages):
        # A dict keeps the order and knows each name once: q, k and v come from one tensor.
        wanted = {source.name: None for source in sources.values() if source.stage == number}
        for rank in stage:
            if missing := [name for name in wanted if name not in rank.tensors]:
                raise CheckpointError(
                    "E-CKPT-TENSOR",
                    f"{rank.label} lacks {len(missing)} of its {len(wanted)} tensors, the first is {missing[0]}.",
                    "Fetch the whole checkpoint, and use the config.json that belongs to it.",
                )
            if unknown := sorted(name for name in rank.tensors if name not in wanted):
                raise CheckpointError(
                    "E-CKPT-TENSOR",
                    f"{rank.label} has {len(unknown)} tensors without a place in this model's stage, the first is "
                    f"{shown(unknown[0])}.",
                    "Use the config.json that belongs to the weights; nothing is left out silently.",
                )


def check_tensor(source: Source, ranks: Sequence[RankFile]) -> str:
    """The dtype that all ranks have; their shapes fit the rule. Raises E-CKPT-DTYPE, E-CKPT-SHAPE."""
    tensors = [rank.tensors[source.name] for rank in ranks]
    first = tensors[0]
    for rank, tensor in zip(ranks, tensors, strict=True):
        if tensor.dtype != first.dtype:
            raise CheckpointError(
                "E-CKPT-DTYPE",
                f"{source.name} in {rank.label} has dtype {tensor.dtype}; the first rank's has {first.dtype}.",
                _SAME_RUN,
            )
        if fault := source.rule.fault(tensor.shape, first.shape, len(ranks)):
            raise CheckpointError(
                "E-CKPT-SHAPE",
                f"{source.name} in {rank.label} has shape {list(tensor.shape)}; {fault}.",
                "Use the config.json that belongs to the weights, and ranks of one checkpoint.",
            )
    return first.dtype
