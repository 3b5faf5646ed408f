"""The benchmarks in the order of the release's table, then one's own questions; a new one is a module and a line."""

from __future__ import annotations

from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.task import Task
from nvlm_trt.evaluate.tasks.ai2d import AI2D
from nvlm_trt.evaluate.tasks.captioning import CAPTIONING
from nvlm_trt.evaluate.tasks.chartqa import CHARTQA
from nvlm_trt.evaluate.tasks.mathvista import MATHVISTA
from nvlm_trt.evaluate.tasks.mmmu import MMMU
from nvlm_trt.evaluate.tasks.ocrbench import OCRBENCH
from nvlm_trt.evaluate.tasks.own import OWN
from nvlm_trt.evaluate.tasks.realworldqa import REALWORLDQA
from nvlm_trt.evaluate.tasks.spdocvqa import SPDOCVQA
from nvlm_trt.evaluate.tasks.textvqa import TEXTVQA
from nvlm_trt.evaluate.tasks.vqav2 import VQAV2

__all__ = ["TASKS", "find_task"]

TASKS: tuple[Task, ...] = (
    *(MMMU, MATHVISTA, OCRBENCH, AI2D, CHARTQA, SPDOCVQA, TEXTVQA, REALWORLDQA, VQAV2, CAPTIONING, OWN),
)


def find_task(name: str) -> Task:
    """By any of its names, capitals or not. Raises ``UsageError`` E-EVAL-TASK."""
    for task in TASKS:
        if name.lower() in (known.lower() for known in (task.name, *task.also)):
            return task
    raise UsageError(
        "E-EVAL-TASK", f"There is no task {name!r}.", f"Choose one of: {', '.join(task.name for task in TASKS)}."
    )
