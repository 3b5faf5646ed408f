"""A small writer of ONNX graphs: operators as calls, names as scopes, weights as references.

Every node is named after the place it was written in (``layers.3/attention/MatMul``), and so is its one output; those
are the names that error messages, profilers and TensorRT's kernel lists show. Constants are kept once however often
they are used. Weights never enter the file: a parameter is an initializer whose bytes lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["GraphWriter"]


class GraphWriter:
    """Collects nodes in the order they are called; ``model`` ends it."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._scope: tuple[str, ...] = ()
        self._uses: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Everything written inside carries ``name/`` in front."""
        outer = self._scope
        self._scope = (*outer, name)
        try:
            yield
        finally:
            self._scope = outer

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write one operator with one output; returns the output's name."""
        return self.nodes(op_type, *inputs, outputs=1, **attributes)[0]

    def nodes(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Write one operator with several outputs; returns their names."""
        name = self._unique("/".join((*self._scope, op_type)))
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return names

    def constant(self, values: NDArray[Any], *, name: str = "") -> str:
        """A small constant inside the file; equal ones are one, named after their dtype and values.

        One that means something of its own has a ``name`` and is never shared.
        """
        if not name:
            name = f"constant/{values.dtype}[{','.join(str(value) for value in values.ravel())}]"
            if values.ndim != 1:
                name += f"/{'x'.join(map(str, values.shape)) or 'scalar'}"
        tensor = numpy_helper.from_array(values, name)
        if self._initializers.setdefault(name, tensor) != tensor:
            raise ValueError(f"{name} was declared twice, with different values")
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def parameter(self, name: str, shape: Sequence[int], onnx_dtype: int) -> str:
        """An initializer whose bytes lie outside the file, nominally in one called like itself."""
        tensor = TensorProto(name=name, data_type=onnx_dtype, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
        if self._initializers.setdefault(name, tensor) != tensor:
            raise ValueError(f"{name} was declared twice, with different shapes or types")
        return name

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], opset: int
    ) -> onnx.ModelProto:
        """The finished model; initializers sorted by name, so that equal graphs are equal bytes."""
        initializers = [self._initializers[key] for key in sorted(self._initializers)]
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), initializer=initializers)
        opsets = [helper.make_opsetid("", opset)]
        # The lowest IR version that carries the opset: the widest range of parsers reads it.
        ir_version = helper.find_min_ir_version_for(opsets)
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="nvlm-trt")

    def rename(self, value: str, name: str) -> None:
        """Give the last written value its public name."""
        last = self._nodes[-1]
        if list(last.output) != [value]:
            raise ValueError(f"{value} is not the last value written")
        last.output[0] = name

    def _unique(self, name: str) -> str:
        count = self._uses[name] = self._uses.get(name, 0) + 1
        return name if count == 1 else f"{name}.{count}"
