from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.reference.vision import VisionReference, read_tensor


@pytest.fixture(scope="module")
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> VisionReference:
    return VisionReference.from_checkpoint(checkpoint)


def test_parameters_are_exactly_the_checkpoints_vision_tensors(checkpoint: Checkpoint, reference: VisionReference):
    parameters = reference.state_dict()
    names = [name for name in checkpoint.names() if not name.startswith("language_model.")]
    assert sorted(parameters) == names
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    for name in names:
        np.testing.assert_array_equal(parameters[name].numpy(), checkpoint.read(name).astype(np.float32))


def test_a_tensor_is_read_as_float32_whatever_it_is_stored_as(checkpoint: Checkpoint):
    for name, stored in (("mlp1.0.weight", "BF16"), ("vision_model.encoder.layers.0.attn.q_norm.weight", "F32")):
        assert checkpoint.info(name).dtype == stored
        assert read_tensor(checkpoint, name).dtype == torch.float32


def test_normalised_pixels_lie_in_imagenets_range(reference: VisionReference):
    """The ends of the range of each channel, as published for this mean and standard deviation."""
    black_and_white = np.stack([np.zeros((112, 112, 3), np.uint8), np.full((112, 112, 3), 255, np.uint8)])
    pixels = reference.normalise(torch.from_numpy(black_and_white))
    assert pixels.shape == (2, 3, 112, 112)
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[1, :, 5, 9], torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)


def test_pixel_shuffle_puts_each_square_of_patches_into_one_token(reference: VisionReference):
    """Token 4i+j holds patches (2i, 2j), (2i, 2j+1), (2i+1, 2j), (2i+1, 2j+1), in that order."""
    patches = torch.arange(64).reshape(1, 64, 1)
    shuffled = reference.pixel_shuffle(patches)
    assert shuffled.shape == (1, 16, 4)
    for i in range(4):
        for j in range(4):
            wanted = [8 * (2 * i + row) + 2 * j + col for row in (0, 1) for col in (0, 1)]
            assert shuffled[0, 4 * i + j].tolist() == wanted


def test_dummy_heads_add_exactly_nothing(checkpoint: Checkpoint, reference: VisionReference):
    """In float64, with and without the padding, to the last bit but for the order of sums."""
    config = checkpoint.config.vision
    real, padded, width = config.hidden_size, config.padded_width, config.hidden_size
    bare = VisionReference(dataclasses.replace(config, num_dummy_heads=0)).double()
    state = {}
    for name, value in reference.state_dict().items():
        if name.endswith("qkv.weight"):
            value = value.reshape(3, padded, width)[:, :real].reshape(3 * real, width)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            value = value[:real]
        elif name.endswith("attn.proj.weight"):
            value = value[:, :real]
        state[name] = value.double()
    bare.load_state_dict(state)
    full = VisionReference(config).double()
    full.load_state_dict(reference.state_dict())
    tiles = np.random.default_rng(1).integers(0, 256, (1, 112, 112, 3), dtype=np.uint8)
    with torch.inference_mode():
        with_padding, without = full(tiles), bare(tiles)
    torch.testing.assert_close(with_padding, without, rtol=0, atol=1e-12)


def test_tiles_do_not_see_each_other(reference: VisionReference):
    tiles = np.random.default_rng(2).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    torch.testing.assert_close(reference(tiles)[1:2], reference(tiles[1:2]), rtol=1e-4, atol=1e-5)
