"""The steps of a build and what became of each."""

from __future__ import annotations

from nvlm_trt.pipeline.report import BuildResult

__all__ = ["outcomes"]


def outcomes(result: BuildResult) -> dict[str, str]:
    return {report.step: report.outcome for report in result.steps}
