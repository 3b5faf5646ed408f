from __future__ import annotations

from pathlib import Path

import pytest

from tests.embedded.decoder_folder import write_decoder_folder


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-layer FP8 decoder checkpoint; to be read, not changed."""
    return write_decoder_folder(tmp_path_factory.mktemp("decoders") / "small")
