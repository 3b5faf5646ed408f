"""The outputs of the ``vision_encoder`` model, in the form the decoder's prompt table wants."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["empty_table", "write_table"]


def write_table(rows: Any, dtype: str) -> dict[str, Any]:
    """From [tiles, tokens_per_tile, hidden] to the prompt table [1, rows, hidden] and its length INT32 [1, 1].

    ``dtype`` "float32" keeps numpy; any other needs a torch tensor, as numpy has no bfloat16. The table is in host
    memory: Triton's Python backend cannot pass on one of a GPU's when the server's pool there is full. What is there in
    this dtype already is not copied.
    """
    table = rows.reshape(1, -1, rows.shape[-1])
    if not isinstance(table, np.ndarray) or dtype != "float32":
        import torch

        table = torch.as_tensor(table).to(device="cpu", dtype=getattr(torch, dtype))
    return {"prompt_embedding_table": table, "prompt_vocab_size": np.array([[table.shape[1]]], np.int32)}


def empty_table(hidden_size: int, dtype: str) -> dict[str, Any]:
    """One row of zeros that no token points at: a request without pictures, for a decoder that must have a table."""
    return write_table(np.zeros((1, 1, hidden_size), np.float32), dtype)
