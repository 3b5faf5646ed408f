"""The training run: steps, stages, held-out rates, and states from which a killed run resumes.

A state is taken between steps and holds everything a step depends on, including the position in the stream of batches,
so a run that was killed and resumed does the same sums as one that was not. On one machine with one number of threads
they have the same bits; elsewhere the batches are the same and the sums differ by rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from nvlm_trt.mini.batches import HELD_OUT, Batch, BatchMaker
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.lesson import take_lesson
from nvlm_trt.mini.model import MiniNvlm
from nvlm_trt.mini.muon import Muon

__all__ = ["Plan", "Position", "Source", "Trainer"]


class Source(Protocol):
    """The training batches of one stage after the other, in order."""

    def seek(self, stage: int, step: int) -> None:
        """Go on with batch ``step`` of ``stage``."""

    def take(self) -> Batch: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """``steps`` in all, with learning rates falling from ``rate`` to nothing over the last ``decay_steps``.

    In the last ``joint_steps`` answers teach the tower too; before, only pages do, at a third of the cost.
    """

    steps: int
    decay_steps: int
    joint_steps: int = 0
    rate: float = 1.0
    warmup_steps: int = 50
    check_every: int = 200
    check_batches: int = 4
    save_every_s: float = 120.0

    def rate_at(self, step: int) -> float:
        """What the learning rates are multiplied by."""
        left = (self.steps - step) / self.decay_steps if self.decay_steps else 1.0
        return self.rate * min(1.0, (step + 1) / self.warmup_steps, left)


@dataclass(slots=True)
class Position:
    step: int = 0
    stage: int = 0
    stage_step: int = 0
    pictures: int = 0
    seconds: float = 0.0


class Trainer:
    def __init__(self, model: MiniNvlm, maker: BatchMaker, plan: Plan, state: Path, say: Callable[[str], None]) -> None:
        self.model = model
        self.position = Position()
        self._maker = maker
        self._plan = plan
        self._state = state
        self._say = say
        self._stopping = False
        self._optimizers = _optimizers(model)
        if state.exists():
            self._load()

    def begin(self, tower: Path) -> None:
        """At the first stage that asks, with another run's tower and projector; the decoder is fresh."""
        state = torch.load(tower, weights_only=True, map_location="cpu")["model"]
        known = {
            name: value
            for name, value in state.items()
            if name.startswith(("vision.", "letter", "colour", "cell", "ink"))
        }
        self.model.load_state_dict(self.model.state_dict() | known)
        self.position.stage = next(index for index, stage in enumerate(STAGES) if stage.tasks)

    def stop(self) -> None:
        """Let the run end after the step it is in; for a signal's handler."""
        self._stopping = True

    def run(self, source: Source) -> None:
        """Until the plan's last step, or ``stop``. The state is saved as it goes and at the end."""
        # Most positions hardly touch an answer: their gradients are subnormal, and products of those five times slower.
        torch.set_flush_denormal(True)
        try:
            self._run(source)
        finally:
            torch.set_flush_denormal(False)

    def _run(self, source: Source) -> None:
        self._seek(source)
        saved_s = shown_s = time.monotonic()
        shown_pictures = self.position.pictures
        loss = right = asked = 0.0
        while self.position.step < self._plan.steps and not self._stopping:
            start_s = time.monotonic()
            lesson_loss, lesson_right, lesson_asked, pictures = self._step(source)
            if lesson_asked:
                loss = 0.98 * loss + 0.02 * lesson_loss if loss else lesson_loss
                right, asked = 0.98 * right + lesson_right, 0.98 * asked + lesson_asked
            self.position.step += 1
            self.position.stage_step += 1
            self.position.pictures += pictures
            self.position.seconds += time.monotonic() - start_s
            if self.position.step % self._plan.check_every == 0 and self._check(source):
                loss = right = asked = 0.0
            now_s = time.monotonic()
            if now_s - shown_s >= 10 or self.position.step == self._plan.steps:
                rate = (self.position.pictures - shown_pictures) / (now_s - shown_s)
                self._show(loss, right / max(asked, 1), rate)
                shown_s, shown_pictures = now_s, self.position.pictures
            if now_s - saved_s >= self._plan.save_every_s:
                self.save()
                saved_s = now_s
        self.save()

    def save(self) -> None:
        state = {
            "position": asdict(self.position),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        partial = self._state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._state)

    def held_out_rate(self, stage: int) -> float:
        """Of whole answers, or of letters in a stage of pages."""
        self.model.eval()
        right = asked = 0
        with torch.inference_mode():
            for index in range(self._plan.check_batches):
                batch = self._maker.batch(STAGES[stage], stage, HELD_OUT, index)
                lesson = take_lesson(self.model, batch)
                right, asked = right + lesson.right, asked + lesson.asked
        self.model.train()
        return right / asked

    def _step(self, source: Source) -> tuple[float, int, int, int]:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self._plan.rate_at(self.position.step)
        batch = source.take()
        lesson = take_lesson(self.model, batch, self._plan.steps - self.position.step <= self._plan.joint_steps)
        self.model.zero_grad()
        lesson.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        # Letters are not told of where answers are what counts.
        asked = lesson.asked if batch.ids.size or not STAGES[self.position.stage].tasks else 0
        return lesson.loss.item(), lesson.right, asked, len(batch.ids) or len(batch.tiles)

    def _check(self, source: Source) -> bool:
        """Whether the next stage has begun."""
        stage = self.position.stage
        rate = self.held_out_rate(stage)
        self._say(f"  held out, {STAGES[stage].name}: {rate:.1%} after {self.position.stage_step} steps of it")
        if rate < STAGES[stage].until or stage + 1 == len(STAGES):
            return False
        self.position.stage, self.position.stage_step = stage + 1, 0
        self._seek(source)
        self._say(f"stage {stage + 2} of {len(STAGES)}: {STAGES[stage + 1].name}")
        return True

    def _seek(self, source: Source) -> None:
        source.seek(self.position.stage, self.position.stage_step)

    def _show(self, loss: float, right: float, rate: float) -> None:
        position, plan = self.position, self._plan
        left_s = position.seconds / position.step * (plan.steps - position.step)
        self._say(
            f"step {position.step}/{plan.steps}  {STAGES[position.stage].name}  loss {loss:.3f}  right {right:.1%}  "
            f"{rate:.0f} pictures/s  {position.pictures} pictures  {position.seconds:.0f} s  {left_s:.0f} s left"
        )

    def _load(self) -> None:
        state = torch.load(self._state, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.position = Position(**state["position"])


def _optimizers(model: MiniNvlm) -> list[torch.optim.Optimizer]:
    """Muon for what multiplies hidden states, AdamW for tables, vectors and the layers that classify."""
    matrices: dict[int, list[torch.nn.Parameter]] = {1: [], 3: []}
    others = []
    for name, parameter in model.named_parameters():
        if (
            parameter.dim() < 2
            or "embed_tokens" in name
            or "head." in name
            or "s.class" in name
            or "s.position" in name
        ):
            others.append(parameter)
        else:
            matrices[3 if "attn.qkv" in name else 1].append(parameter)
    groups = [{"params": params, "blocks": blocks} for blocks, params in matrices.items()]
    return [Muon(groups, lr=0.02), torch.optim.AdamW(others, lr=1.2e-3, betas=(0.9, 0.98), weight_decay=0.01)]
