"""A class map says where in a photo a class is seen, and its mean is the logit."""

import numpy as np
import pytest
import torch

from training.model.class_maps import best_model, class_maps, pooled
from training.model.resnet import Normalise, build
from training.runs.checkpoint import DamagedError


@pytest.fixture(scope="module")
def model():
    """A ResNet18 with random weights, in eval mode."""
    return build(3, seed=1).eval()


def drawn(count, side):
    """Draw photos of noise."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_features_times_weights_are_the_logits(model):
    """What is pooled, times the head's weights, is what the model answers; batches add nothing."""
    images = drawn(70, 64)

    features = pooled(model, images, np.arange(70), 64)

    logits = features @ model.fc.weight.detach().numpy().T + model.fc.bias.detach().numpy()
    with torch.no_grad():
        pixels = Normalise()(torch.from_numpy(images).permute(0, 3, 1, 2).float())
        expected = model(pixels).numpy()
    assert (70, 512) == features.shape
    assert np.allclose(expected, logits, atol=1e-4)


@pytest.mark.parametrize(("side", "cells"), [(32, 2), (64, 4), (224, 7)])
def test_a_map_has_cells_even_of_a_small_photo(model, side, cells):
    """From 0 to 1, whatever the photo; shifts double the cells where these are few."""
    weights = np.random.default_rng(1).normal(size=(2, 512)).astype(np.float32)

    maps = class_maps(model, drawn(2, side), np.arange(2), weights, side)

    assert (2, cells, cells) == maps.shape
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_a_map_is_bright_where_the_class_is_seen(model):
    """Only one corner holds anything: the cells over it are brighter than those far from it."""
    photo = np.full((1, 128, 128, 3), 124, np.uint8)
    photo[0, :32, 96:] = drawn(1, 32)[0]
    both = np.concatenate([photo, np.full((1, 128, 128, 3), 124, np.uint8)])
    corner, flat = pooled(model, both, np.arange(2), 128)

    # The features that the corner adds, as the weights of a class.
    (found,) = class_maps(model, photo, np.arange(1), np.clip(corner - flat, 0, None)[None], 128)

    assert found[0, -1] > 2 * found[-1, 0]
    assert np.unravel_index(found.argmax(), found.shape)[1] >= 2


def test_a_run_without_its_best_epoch_is_an_error(tmp_path):
    """The message names the file."""
    with pytest.raises(DamagedError, match=r"best\.safetensors"):
        best_model(tmp_path)
