from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.errors import ArtefactError, MissingToolError, ServerError
from nvlm_trt.pipeline.builder import build

SHARED_MEMORY = Path("/dev/shm")


def traces() -> set[Path]:
    return {*SHARED_MEMORY.glob("nvlm_*"), *Path(tempfile.gettempdir()).glob("nvlm-trt-*")}


def assert_nothing_is_left_since(before: set[Path]) -> None:
    """Tests run in several processes: what a living server of another one names is not this one's affair, and one that
    starts or stops there at this moment has a little time.
    """
    deadline = time.monotonic() + 20
    while left := [path for path in traces() - before if not any(named(path, line) for line in foreign_commands())]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def named(path: Path, command: str) -> bool:
    # nvlm_RUN_REGION or nvlm_RUN.lock, both of the run whose processes are told nvlm_RUN_
    prefix = path.name if path.name.startswith("nvlm-trt-") else "_".join(path.stem.split("_")[:2]) + "_"
    return prefix in command


def foreign_commands() -> Iterator[str]:
    """Of living processes that are neither this one's children nor orphans."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent not in (1, os.getpid()):
                yield folder.joinpath("cmdline").read_text()


def test_a_server_leaves_nothing_behind_and_runs_from_an_environment_of_any_name(
    deployment, small_checkpoint, tmp_path
):
    """The whole life of a server in a process whose interpreter, project and deployment have blanks in their paths, and
    letters that are not ASCII's."""
    environment = tmp_path / "eine schöne Umgebung"
    environment.symlink_to(sys.prefix)
    before = traces()
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nvlm_trt.client import AskOptions, open_client\n"
        "from nvlm_trt.deploy.server import TritonServer\n"
        "with TritonServer(Path(sys.argv[1]), Path(sys.argv[2])) as server:\n"
        "    with open_client(server.grpc_url) as client:\n"
        "        print(client.ask('Hello', (), AskOptions(max_tokens=3)).output_tokens)\n"
        "assert not server.running\n"
    )
    done = subprocess.run(
        [environment / "bin" / "python", "-c", script, deployment, small_checkpoint],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"
    assert_nothing_is_left_since(before)


def test_a_start_that_fails_gives_the_models_own_error_and_keeps_the_log(deployment, small_checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(deployment, broken)
    (broken / "decoder" / "checkpoint" / "rank0.safetensors").unlink()
    before = traces()
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-DECODER: .*rank0\.safetensors"):
        TritonServer(broken, small_checkpoint)
    assert_nothing_is_left_since(before)
    assert b"E-ARTEFACT-DECODER" in (broken / "server.log").read_bytes()


def test_a_start_that_hangs_is_ended_at_its_deadline(deployment, small_checkpoint, tmp_path):
    stuck = tmp_path / "stuck"
    shutil.copytree(deployment, stuck)
    model = stuck / "triton_repo" / "postprocessing" / "1" / "model.py"
    model.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    before = traces()
    with pytest.raises(ServerError, match="E-SERVER-START: The server was not ready"):
        TritonServer(stuck, small_checkpoint, start_timeout_s=1.0)
    assert_nothing_is_left_since(before)


def test_a_production_deployment_names_what_is_missing_here(small_checkpoint, tmp_path):
    out = tmp_path / "production"
    build(small_checkpoint, "h200x1-fp8", out)
    with pytest.raises(MissingToolError, match="E-TOOL-TRTLLM"):
        TritonServer(out, small_checkpoint)
