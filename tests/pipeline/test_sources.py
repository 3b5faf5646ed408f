from __future__ import annotations

from pathlib import Path

import nvlm_trt
from nvlm_trt.pipeline import sources
from nvlm_trt.pipeline.sources import source_digest, sources_of

PACKAGE = Path(nvlm_trt.__file__).parent


def names(module: str) -> set[str]:
    return {file.relative_to(PACKAGE).as_posix() for file in sources_of(module)}


def test_a_module_s_sources_are_all_that_it_imports() -> None:
    found = names("decoder.calibration")
    assert {"decoder/calibration.py", "decoder/layer.py", "decoder/fp8.py", "model/config.py"} <= found
    assert "decoder/trtllm_build.py" not in found


def test_imports_inside_functions_count() -> None:
    assert "vision/onnxruntime_engine.py" in names("vision.registry")


def test_a_package_is_all_its_modules() -> None:
    assert {"checkpoint/registry.py", "checkpoint/synthetic/words.py"} <= names("checkpoint")


def test_what_cannot_change_an_artefact_is_left_out() -> None:
    """A new command or another wording must not cost anyone a calibration."""
    for module in ("decoder.samples", "decoder.trtllm_checkpoint", "deploy.repository"):
        for name in names(module):
            assert not name.startswith(("cli/", "pipeline/", "plan/")), name
            assert name not in ("errors.py", "resources.py"), name


def test_the_digest_follows_the_bytes_of_every_source(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "nvlm_trt"
    package.mkdir()
    (package / "one.py").write_text("import numpy\nfrom nvlm_trt import two\n")
    (package / "two.py").write_text("x = 1\n")
    (package / "three.py").write_text("x = 1\n")
    monkeypatch.setattr(sources, "_PACKAGE", package)
    sources._imported.cache_clear()

    def digest() -> str:
        source_digest.cache_clear()
        return source_digest("one")

    try:
        before = digest()
        (package / "three.py").write_text("x = 2\n")
        assert digest() == before
        (package / "two.py").write_text("x = 2\n")
        assert digest() != before
    finally:
        source_digest.cache_clear()
        sources._imported.cache_clear()
