"""That it learns, and that a killed run goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.mini.batches import NO_TARGET, TRAIN, Batch, BatchMaker
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.lesson import row_inks, take_lesson
from nvlm_trt.mini.model import MiniNvlm
from nvlm_trt.mini.muon import Muon
from nvlm_trt.mini.trainer import Plan, Trainer
from tests.torch_threads import one_torch_thread

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


class Here:
    """A supply that makes each batch where it is taken."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker
        self.taken: list[tuple[int, int]] = []

    def seek(self, stage: int, step: int) -> None:
        self._next = (stage, step)

    def take(self) -> Batch:
        stage, step = self._next
        self.taken.append(self._next)
        self._next = (stage, step + 1)
        return self._maker.batch(STAGES[stage], stage, TRAIN, step)


def fresh(base: Path) -> MiniNvlm:
    config = open_checkpoint(base).config
    return MiniNvlm(replace(config, vision=replace(config.vision, num_dummy_heads=0)), 0)


def test_both_losses_fall(base: Path, maker: BatchMaker) -> None:
    model = fresh(base)
    for index in (0, 2):
        batch = maker.batch(replace(STAGES[index], tiles=8), index, TRAIN, 0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(8):
            lesson = take_lesson(model, batch)
            optimizer.zero_grad()
            lesson.loss.backward()
            optimizer.step()
            losses.append(lesson.loss.item())
        assert losses[-1] < 0.8 * losses[0]


def test_a_stage_ends_at_its_rate_and_the_next_begins_at_its_own_first_batch(
    base: Path, maker: BatchMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvlm_trt.mini.trainer.STAGES", tuple(replace(s, until=0.0, tiles=4) for s in STAGES))
    supply, said = Here(maker), list[str]()
    plan = Plan(steps=5, decay_steps=0, check_every=2, check_batches=1)
    trainer = Trainer(fresh(base), maker, plan, tmp_path / "state.pt", said.append)
    trainer.run(supply)
    assert supply.taken == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [line for line in said if line.startswith("stage")] == [
        "stage 2 of 5: letters",
        "stage 3 of 5: numbers",
    ]


def test_muon_moves_a_matrix_alike_in_all_its_directions() -> None:
    weight = torch.nn.Parameter(torch.zeros(24, 16))
    weight.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.logspace(0, -1, 16)
    )
    Muon([{"params": [weight], "blocks": 3}], lr=1.0).step()
    for block in weight.detach().reshape(3, 8, 16):
        assert torch.all((torch.linalg.svdvals(block) > 0.5) & (torch.linalg.svdvals(block) < 1.3))


def test_the_rate_rises_stays_and_runs_out() -> None:
    plan = Plan(steps=1000, decay_steps=100, warmup_steps=10)
    assert [plan.rate_at(step) for step in (0, 9, 500, 899, 950)] == pytest.approx([0.1, 1, 1, 1, 0.5])
    assert replace(plan, rate=0.4).rate_at(950) == pytest.approx(0.2)


def test_only_pages_and_joint_answers_teach_the_tower(base: Path, maker: BatchMaker) -> None:
    stage, model = replace(STAGES[2], tiles=8), fresh(base)
    page, answers = (maker.batch(replace(stage, pages=share), 2, TRAIN, 0) for share in (1.0, 0.0))
    for batch, joint, taught in ((page, False, True), (answers, False, False), (answers, True, True)):
        model.zero_grad()
        take_lesson(model, batch, joint).loss.backward()
        assert (model.vision.vision_model.embeddings.patch_embedding.weight.grad is not None) == taught
        assert model.cell_head.weight.grad is not None
        assert model.ink_head.weight.grad is not None


def test_a_row_has_the_colour_of_the_letters_in_its_four_patches() -> None:
    colours = torch.full((2, 64), NO_TARGET)
    colours[1, 3 * 8 + 2] = colours[1, 3 * 8 + 3] = 4
    expected = torch.full((2, 16), NO_TARGET)
    expected[1, 1 * 4 + 1] = 4
    assert torch.equal(row_inks(colours), expected)


def wait_for_the_end_of_its_group(group: int) -> None:
    """The process that drew pictures for a killed run ends by itself."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(400):
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
        pytest.fail("a killed run left a process")


def test_a_killed_run_goes_on_to_the_same_weights(base: Path, maker: BatchMaker, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/train_mini.py", str(tmp_path), "--steps", "1000", "--save-every", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not (tmp_path / "state.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    wait_for_the_end_of_its_group(process.pid)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    steps = state["position"]["step"] + 1

    def trained(place: Path) -> Trainer:
        trainer = Trainer(fresh(base), maker, Plan(steps, 0), place, lambda text: None)
        trainer.run(Here(maker))
        return trainer

    resumed, uninterrupted = trained(tmp_path / "state.pt"), trained(tmp_path / "other.pt")
    assert resumed.position.pictures == uninterrupted.position.pictures == 32 * steps
    after = uninterrupted.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, after[name]), name
