"""The Triton of NVIDIA's container: where it is in the image, and how it is started for several GPUs.

Open MPI reads what it must know of other machines from the environment (``OMPI_MCA_orte_default_hostfile`` and the
like), so the command line is the same on one machine and on many.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.command import rank_commands, server_command

__all__ = ["ContainerTriton"]

_ROOT = Path("/opt/tritonserver")
# Releases since 25.06 take 64 MiB, less than two of the largest pictures; how much a request may hold is checked later.
_BODY = "--http-max-input-size=1073741824"


@dataclass(frozen=True, slots=True)
class ContainerTriton:
    """A ``Runtime``."""

    root: Path = _ROOT

    @property
    def exists(self) -> bool:
        return self.server.is_file()

    @property
    def server(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def decoders(self) -> tuple[str, ...]:
        return ("python", *(("tensorrtllm",) if (self.root / "backends" / "tensorrtllm").is_dir() else ()))

    def command(self, folder: Path, address: Address, prefix: str, world_size: int) -> list[str]:
        repository = folder / "repository"
        if world_size == 1:
            return server_command(self.server, repository, address, prefix, _BODY)
        # Left to itself, Open MPI binds each of two ranks to one core, on which all models of the first would run.
        mpirun = ("mpirun", "--allow-run-as-root", "--bind-to", "none")
        return rank_commands(world_size, self.server, repository, address, prefix, _BODY, mpirun=mpirun)

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """Without this choice MPI_Init is known to fail in some containers."""
        return {"PMIX_MCA_gds": "hash", **inherited}
