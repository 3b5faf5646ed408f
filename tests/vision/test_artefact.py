from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from nvlm_trt.errors import ArtefactError
from nvlm_trt.vision.artefact import GraphInfo, read_graph, write_artefact


def test_a_graph_says_what_it_takes_and_gives(exported: Path):
    assert GraphInfo.of(read_graph(exported)) == GraphInfo(112, 16, 256, "bfloat16")


def test_a_missing_graph_is_named_without_its_place(tmp_path: Path):
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-MISSING.*vision\.onnx") as caught:
        read_graph(tmp_path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x00" * 100])
def test_other_files_are_no_graph(tmp_path: Path, content: bytes):
    (tmp_path / "vision.onnx").write_bytes(content)
    with pytest.raises(ArtefactError, match="E-ARTEFACT-GRAPH"):
        read_graph(tmp_path)


def test_a_graph_with_other_ends_is_refused(vision_folder: Path):
    model = read_graph(vision_folder)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    write_artefact(vision_folder, "vision.onnx", model.SerializeToString())
    with pytest.raises(ArtefactError, match="E-ARTEFACT-GRAPH"):
        read_graph(vision_folder)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_model(helper.make_graph([], "other", [value], [value]))
    onnx.save(other, str(vision_folder / "vision.onnx"))
    with pytest.raises(ArtefactError, match="E-ARTEFACT-GRAPH"):
        read_graph(vision_folder)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path):
    for content in (b"longer content", b"short"):
        write_artefact(tmp_path, "file", content)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"short")]
