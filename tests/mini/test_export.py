"""From the training module to the release's layout and through the project's readers, without a changed value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.mini.batches import HELD_OUT, NO_TARGET, BatchMaker
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.export import export, load
from nvlm_trt.mini.model import MiniNvlm
from nvlm_trt.mini.sizes import MINI
from nvlm_trt.reference.vision import VisionReference


def test_what_is_written_answers_as_what_was_trained(base: Path, maker: BatchMaker, tmp_path: Path) -> None:
    config = open_checkpoint(base).config
    model = MiniNvlm(replace(config, vision=replace(config.vision, num_dummy_heads=0)), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    export(model, tmp_path / "out", MINI)

    checkpoint = open_checkpoint(tmp_path / "out")
    assert {name: checkpoint.info(name).shape for name in checkpoint.names()} == {
        name: spec.shape for name, spec in expected_tensors(checkpoint.config).items()
    }
    heads = checkpoint.read("vision_model.encoder.layers.0.attn.qkv.weight").reshape(3, 6, -1)
    assert np.any(heads[:, :4])
    assert not np.any(heads[:, 4:])

    batch = maker.batch(replace(STAGES[-1], tiles=16), len(STAGES) - 1, HELD_OUT, 0)
    tiles, ids = torch.from_numpy(batch.tiles), torch.from_numpy(batch.ids)
    order, tail = torch.from_numpy(batch.order), int((batch.targets != NO_TARGET).any(0).sum())
    with torch.inference_mode():
        rows = model.rows(model.patches(tiles))
        assert torch.allclose(VisionReference.from_checkpoint(checkpoint)(tiles), rows, atol=1e-5)
        again = load(checkpoint)
        logits, loaded = (one.logits(ids, rows[order].flatten(1, 2), tail) for one in (model, again))
        # The same place in memory too: how sums are cut up depends on where numbers lie.
        model.language_model.load_state_dict(again.language_model.state_dict())
        logits_again = model.logits(ids, rows[order].flatten(1, 2), tail)
    assert torch.equal(logits, logits_again)
    assert torch.allclose(logits, loaded, atol=1e-5)
