from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from nvlm_trt.deploy.runtime import check_shared_memory, find_wheel
from nvlm_trt.errors import MissingToolError


def test_the_installed_triton_is_found_without_importing_it():
    runtime = find_wheel()
    assert runtime.server.name == "tritonserver"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in runtime.stub.parts
    assert "pytriton" not in sys.modules


def test_the_models_python_is_this_one_and_its_library_resolves(tmp_path):
    runtime = find_wheel()
    environment = runtime.environment({"PATH": "/usr/bin:/bin", "LANG": "C"})
    assert environment["LANG"] == "C"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    linked = subprocess.run(["ldd", runtime.stub], env=environment, capture_output=True, text=True, check=True)
    assert "not found" not in linked.stdout


def test_an_inherited_library_path_is_kept_behind_ours():
    paths = find_wheel().environment({"LD_LIBRARY_PATH": "/opt/other"})["LD_LIBRARY_PATH"].split(":")
    assert paths[0].endswith("nvidia_pytriton.libs")
    assert paths[-1] == "/opt/other"


def test_the_backend_folder_resolves(tmp_path):
    find_wheel().write_backend_folder(tmp_path / "backends")
    links = sorted((tmp_path / "backends" / "python").iterdir())
    assert [link.name for link in links] == [
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    ]
    assert all(link.is_file() for link in links)


def test_no_wheel_is_a_missing_tool(monkeypatch):
    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(MissingToolError, match=r"E-TOOL-TRITON: .*pip install"):
        find_wheel()


def test_numpy_2_is_refused_before_it_loses_tensors(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.3.1")
    with pytest.raises(MissingToolError, match=r"E-TOOL-NUMPY: .*2\.3\.1"):
        find_wheel()


def test_a_site_that_the_models_python_cannot_read_is_named_and_not_a_start_that_hangs(monkeypatch, tmp_path):
    (tmp_path / "pytriton").mkdir()
    (tmp_path / "_editable_impl_mine.pth").write_text("/home/jörg/mine", encoding="utf-8")
    wheel = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    found = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda name: wheel if name == "nvidia-pytriton" else found(name)
    )
    # From 3.12 on such a file is read as UTF-8, and what this wheel lacks is the server.
    with pytest.raises(MissingToolError, match="E-TOOL-SITE" if sys.version_info < (3, 12) else "E-TOOL-TRITON"):
        find_wheel()


def test_no_bash_is_a_missing_tool_and_not_a_start_that_hangs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"E-TOOL-BASH: .*apt install bash"):
        find_wheel()


def test_a_python_without_shared_library_is_a_missing_tool_and_not_a_start_that_hangs(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(MissingToolError, match=r"E-TOOL-LIBPYTHON: .*apt install libpython3"):
        find_wheel()


def test_the_systems_own_libpython_needs_no_folder(monkeypatch, tmp_path):
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr("ctypes.util.find_library", lambda _: name)
    assert find_wheel().python_library is None


def test_too_little_shared_memory_is_named_in_mib():
    check_shared_memory(1)
    with pytest.raises(MissingToolError, match=r"E-TOOL-SHM: .* this deployment needs 1099511627776 MiB"):
        check_shared_memory(2**60)
