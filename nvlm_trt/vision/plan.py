"""What a TensorRT plan was built with and for, kept in a file beside it.

A plan runs only on the TensorRT version and the GPU generation it was built for, and fails elsewhere in ways that are
hard to understand. The file beside it is read first, so that a plan that cannot run is refused with a reason.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pydantic

from nvlm_trt.errors import ArtefactError
from nvlm_trt.vision.artefact import PLAN_FILE, PLAN_INFO_FILE, read_artefact
from nvlm_trt.vision.dtype import GraphDtype

__all__ = ["PlanInfo", "read_plan_info"]

_AGAIN = "Build the engine again here: nvlm-trt build."


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """``compute_capabilities`` as "9.0", none for every one the builder knows; ``profile`` is the smallest, usual and
    largest number of tiles in one call."""

    module: str
    version: str
    compute_capabilities: tuple[str, ...]
    profile: tuple[int, int, int]
    tile_size: int
    tokens_per_tile: int
    output_size: int
    dtype: GraphDtype
    plan_bytes: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> PlanInfo:
        """Raises ``ArtefactError`` E-ARTEFACT-PLAN."""
        try:
            return pydantic.TypeAdapter(cls).validate_json(text)
        except pydantic.ValidationError:
            raise ArtefactError("E-ARTEFACT-PLAN", f"{PLAN_INFO_FILE} cannot be read.", _AGAIN) from None

    def require(self, module: str, version: str, compute_capability: str, max_tiles: int) -> None:
        """Raises ``ArtefactError`` where the plan cannot run: E-ENGINE-VERSION, E-ENGINE-SM or E-ENGINE-PROFILE."""
        if (self.module, self.version) != (module, version):
            raise ArtefactError(
                "E-ENGINE-VERSION",
                f"{PLAN_FILE} was built by {self.module} {self.version}; this is {module} {version}.",
                f"{_AGAIN} Build and serve in the same container.",
            )
        if self.compute_capabilities and compute_capability not in self.compute_capabilities:
            raise ArtefactError(
                "E-ENGINE-SM",
                f"{PLAN_FILE} was built for compute capability {', '.join(self.compute_capabilities)}; "
                f"this GPU has {compute_capability}.",
                _AGAIN,
            )
        if max_tiles > self.profile[2]:
            raise ArtefactError(
                "E-ENGINE-PROFILE",
                f"{PLAN_FILE} takes at most {self.profile[2]} tiles at once; {max_tiles} are asked for.",
                "Raise vision.profile in the recipe and build again.",
            )


def read_plan_info(folder: Path) -> PlanInfo:
    """Raises ``ArtefactError``: E-ARTEFACT-MISSING, or E-ARTEFACT-PLAN where the plan is not the one described."""
    info = PlanInfo.from_json(read_artefact(folder, PLAN_INFO_FILE))
    plan = folder / PLAN_FILE
    size_bytes = plan.stat().st_size if plan.is_file() else 0
    if size_bytes != info.plan_bytes:
        raise ArtefactError(
            "E-ARTEFACT-PLAN", f"{PLAN_FILE} has {size_bytes} bytes; {info.plan_bytes} were written.", _AGAIN
        )
    return info
