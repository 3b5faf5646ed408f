"""Finds this machine's Triton server: the container's own, or the one in the nvidia-pytriton wheel.

The wheel carries a whole Triton 2.51 (server, Python backend, one stub for each Python). It is driven directly; the
wheel's own Python package is never imported. Three things make a start hang for ever instead of failing, so they are
checked beforehand: no shared libpython, no ``bash``, and a blank in a path that reaches the stub's command line. A
fourth, numpy 2, starts well and then hands the models tensors without bytes.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.command import server_command
from nvlm_trt.deploy.container_triton import ContainerTriton
from nvlm_trt.errors import MissingToolError

__all__ = ["Runtime", "TritonRuntime", "check_shared_memory", "find_runtime", "find_wheel"]

_SHARED_MEMORY = Path("/dev/shm")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Runtime(Protocol):
    """An installed Triton. ``decoders`` are the backends that it can run a decoder with."""

    @property
    def server(self) -> Path: ...

    @property
    def decoders(self) -> tuple[str, ...]: ...

    def command(self, folder: Path, address: Address, prefix: str, world_size: int) -> list[str]:
        """To serve ``folder / "repository"``; other files that this needs are made in ``folder``."""

    def environment(self, inherited: dict[str, str]) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class TritonRuntime:
    """Files of one installed Triton. ``python_library`` is None where the system's loader finds libpython by itself."""

    server: Path
    backend: Path
    backend_utils: Path
    stub: Path
    libraries: Path
    python_bin: Path
    python_library: Path | None

    @property
    def decoders(self) -> tuple[str, ...]:
        return ("python",)

    def command(self, folder: Path, address: Address, prefix: str, world_size: int) -> list[str]:
        backends = folder / "backends"
        if not backends.exists():
            self.write_backend_folder(backends)
        return server_command(
            self.server,
            folder / "repository",
            address,
            prefix,
            f"--backend-directory={backends}",
            "--allow-gpu-metrics=false",
        )

    def write_backend_folder(self, folder: Path) -> None:
        """Make ``folder`` a backend directory: the wheel keeps the stub apart from the backend that starts it."""
        python = folder / "python"
        python.mkdir(parents=True)
        (python / self.backend.name).symlink_to(self.backend)
        (python / self.backend_utils.name).symlink_to(self.backend_utils)
        (python / "triton_python_backend_stub").symlink_to(self.stub)

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """``inherited`` with the interpreter of this process first: the stub takes its Python from PATH."""
        libraries = [str(self.libraries)]
        if self.python_library is not None:
            libraries.append(str(self.python_library.parent))
        if inherited.get("LD_LIBRARY_PATH"):
            libraries.append(inherited["LD_LIBRARY_PATH"])
        path = [str(self.python_bin)] + ([inherited["PATH"]] if inherited.get("PATH") else [])
        return {**inherited, "PATH": ":".join(path), "LD_LIBRARY_PATH": ":".join(libraries)}


def find_runtime() -> Runtime:
    """The container's Triton where there is one, else that of this interpreter's environment.

    Raises ``MissingToolError``: E-TOOL-TRITON, E-TOOL-NUMPY, E-TOOL-SITE, E-TOOL-BASH, E-TOOL-LIBPYTHON.
    """
    container = ContainerTriton()
    return container if container.exists else find_wheel()


def find_wheel() -> TritonRuntime:
    """Raises as ``find_runtime``."""
    try:
        wheel = importlib.metadata.distribution("nvidia-pytriton")
    except importlib.metadata.PackageNotFoundError:
        raise _no_triton("The Triton server is not installed.") from None
    root = Path(str(wheel.locate_file("pytriton/tritonserver")))
    python = Path(sys.executable)
    if _PYTHON not in ("3.11", "3.12"):
        raise _no_triton(f"Triton's Python models run on Python 3.11 and 3.12, not {_PYTHON}.")
    _check_numpy()
    _check_site(root.parent.parent)
    if shutil.which("bash") is None:
        raise MissingToolError(
            "E-TOOL-BASH", "Triton starts its Python models through bash, and there is none.", "apt install bash"
        )
    runtime = TritonRuntime(
        server=root / "bin" / "tritonserver",
        backend=root / "backends" / "python" / "libtriton_python.so",
        backend_utils=root / "backends" / "python" / "triton_python_backend_utils.py",
        stub=root / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
        libraries=root.parent.parent / "nvidia_pytriton.libs",
        python_bin=python.parent,
        python_library=_find_python_library(),
    )
    for file in (runtime.server, runtime.backend, runtime.backend_utils, runtime.stub):
        if not file.exists():
            raise _no_triton(f"The installed Triton server lacks {file.name}.")
    return runtime


def check_shared_memory(wanted_bytes: int) -> None:
    """Tensors travel between the server and its models through /dev/shm. Raises ``MissingToolError`` E-TOOL-SHM."""
    free_bytes = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0
    if free_bytes < wanted_bytes:
        raise MissingToolError(
            "E-TOOL-SHM",
            f"/dev/shm has {free_bytes // 2**20} MiB free; this deployment needs {-(-wanted_bytes // 2**20)} MiB.",
            "In a container, start it with a larger --shm-size.",
        )


def _no_triton(what: str) -> MissingToolError:
    return MissingToolError("E-TOOL-TRITON", what, "Install it: pip install 'nvlm-trt[serve]'")


def _check_numpy() -> None:
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise MissingToolError(
            "E-TOOL-NUMPY",
            f"Triton 2.51's Python models lose tensor contents with numpy {version}; numpy 1.26 is needed.",
            "Install it: pip install 'numpy<2'",
        )


def _check_site(packages: Path) -> None:
    """The interpreter in a model's process has no locale: before 3.12 it ends when it reads a .pth file with a letter
    beyond ASCII, as ``pip install -e`` writes it in a folder with such a name, and the server waits for it for ever."""
    for file in packages.glob("*.pth") if sys.version_info < (3, 12) else ():
        if not file.read_bytes().isascii():
            raise MissingToolError(
                "E-TOOL-SITE",
                f"Triton's Python models cannot read {file.name} of this environment, which is not plain ASCII.",
                "Install the package without -e, or in a folder with a plain name.",
            )


def _find_python_library() -> Path | None:
    name = f"libpython{_PYTHON}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib")]
    for folder in filter(None, folders):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    if ctypes.util.find_library(f"python{_PYTHON}") == name:
        return None
    raise MissingToolError(
        "E-TOOL-LIBPYTHON",
        f"Triton's Python models need {name}, and this Python was built without it.",
        f"apt install libpython{_PYTHON}",
    )
