"""A copy of a deployment's model repository for one server run: with real folders, in a path without blanks.

Triton passes the repository's path to its model processes through an unquoted shell line, so it may contain no blank or
shell character. The folders of the deployment itself reach the models as parameters; the interpreter that Triton embeds
has no locale and opens no file whose name goes beyond ASCII, so a folder with such a name is reached through a link.
Beside each model lies a link to this package, so that the models run the code that started them, installed or not.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

import nvlm_trt
from nvlm_trt.deploy.model_config import ModelConfig, read_model_config, set_parameter, write_model_config
from nvlm_trt.deploy.repository import MODELS
from nvlm_trt.errors import ServerError
from nvlm_trt.serving.shutdown import MARKS

__all__ = ["WORK_FOLDER", "make_work_folder", "stage_repository"]

WORK_FOLDER = "nvlm-trt-"
"""What their names begin with."""
_PACKAGE = Path(nvlm_trt.__file__).parent
_TOLD = ("postprocessing", "preprocessing", "tensorrt_llm")
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)


def make_work_folder() -> Path:
    """A fresh folder with a plain path. Raises ``ServerError`` E-SERVER-PATH if none can be made."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if _PLAIN.fullmatch(parent):
            try:
                return Path(tempfile.mkdtemp(prefix=WORK_FOLDER, dir=parent))
            except OSError:
                continue
    raise ServerError(
        "E-SERVER-PATH",
        "There is no temporary folder that can be written and has no blank or special character in its path.",
        "Set TMPDIR to one.",
    )


def stage_repository(deployment_dir: Path, checkpoint_dir: Path, folder: Path, marks: Path | None = None) -> None:
    """Copy ``deployment_dir/triton_repo`` to ``folder`` with ``/deployment`` and ``/checkpoint`` replaced.

    ``marks``, a folder that is created, is where the models will look for marks of the server's end.

    Raises ``ArtefactError`` E-ARTEFACT-TRITON if a model is missing or damaged.
    """
    if marks is not None:
        marks.mkdir()
    real = {"/deployment": deployment_dir.resolve(), "/checkpoint": checkpoint_dir.resolve()}
    for name in MODELS:
        source = deployment_dir / "triton_repo" / name
        config = read_model_config(source / "config.pbtxt")
        (folder / name / "1").mkdir(parents=True)
        _replace_folders(config, {mounted: _in_ascii(place, folder / name / "1") for mounted, place in real.items()})
        if marks is not None and name in _TOLD:
            set_parameter(config, MARKS, str(marks))
        write_model_config(config, folder / name / "config.pbtxt")
        if (source / "1" / "model.py").exists():
            shutil.copyfile(source / "1" / "model.py", folder / name / "1" / "model.py")
            (folder / name / "1" / _PACKAGE.name).symlink_to(_PACKAGE)


def _in_ascii(place: Path, beside: Path) -> str:
    """The folder's path, or that of a link to it."""
    if str(place).isascii():
        return str(place)
    link = beside / f"{hashlib.sha256(bytes(place)).hexdigest()[:16]}.link"
    link.symlink_to(place)
    return str(link)


def _replace_folders(config: ModelConfig, real: dict[str, str]) -> None:
    for key, parameter in config.parameters.items():
        if not key.endswith(("_dir", "_path")):
            continue
        for mounted, folder in real.items():
            if parameter.string_value == mounted or parameter.string_value.startswith(mounted + "/"):
                parameter.string_value = folder + parameter.string_value[len(mounted) :]
