"""Which runs `compile=auto` compiles on CUDA; it asks the settings alone, so no GPU is needed."""

import pytest
import torch

from training.config import TrainConfig
from training.model.compiling import compiled_as
from training.recipes import recipe

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("num_photos", "changes", "processes", "expected"),
    [
        # A minute of steps of 224 px: 15 s would be saved.
        (33_593, {"epochs": 20, "batch_size": 512}, 1, "off"),
        # Ten minutes, and hours.
        (33_593, {"epochs": 200, "batch_size": 512}, 1, "on"),
        (1_281_167, {"epochs": 90, "batch_size": 256}, 1, "on"),
        # Only the last third of its epochs has the last side.
        (33_593, {"epochs": 60, "batch_size": 512}, 1, "on"),
        (33_593, {"epochs": 60, "batch_size": 512, "start_scale": 0.667}, 1, "off"),
        # Four processes are done in a quarter of the time.
        (33_593, {"epochs": 100, "batch_size": 512}, 1, "on"),
        (33_593, {"epochs": 100, "batch_size": 512}, 4, "off"),
        # Small photos cost what launching their kernels costs.
        (33_593, {"epochs": 50, "batch_size": 512, "image_size": 64}, 1, "off"),
        (33_593, {"epochs": 50, "batch_size": 32, "image_size": 64}, 1, "on"),
        # torch cannot compile BatchNorm that waits; one process has nobody to wait for.
        (33_593, {"epochs": 800, "batch_size": 512, "sync_batchnorm": True}, 2, "off"),
        (33_593, {"epochs": 800, "batch_size": 512, "sync_batchnorm": True}, 1, "on"),
    ],
)
def test_a_run_is_compiled_where_it_saves_more_than_compiling_takes(
    num_photos, changes, processes, expected, capsys
):
    """Forty seconds must be won back, by a quarter of the time of the last side's steps."""
    config = TrainConfig(**changes)

    assert expected == compiled_as(config, CUDA, num_photos, processes)
    assert capsys.readouterr().err.startswith(f"compile: {expected}, since")
    assert "off" == compiled_as(config, CPU, num_photos, processes)
    assert "" == capsys.readouterr().err


def test_phases_are_compiled_one_by_one():
    """A fine-tuning of two phases must win back twice as much."""
    config = TrainConfig(epochs=80, batch_size=512)
    phased = config.with_overrides({"transfer.strategy": "lp-ft", "transfer.weights": "f" * 64})

    assert "on" == compiled_as(config, CUDA, 33_593)
    assert "off" == compiled_as(phased, CUDA, 33_593)


@pytest.mark.parametrize(("mode", "cpu"), [("off", "off"), ("on", "on"), ("graphs", "on")])
def test_what_is_asked_for_is_done(mode, cpu):
    """Also for a run of one step; CUDA graphs are left out where there is no CUDA."""
    config = TrainConfig(epochs=1, batch_size=2, compile=mode)

    assert (mode, cpu) == (compiled_as(config, CUDA, 2), compiled_as(config, CPU, 2))


def test_the_sentence_has_the_figures_and_the_way_out(capsys):
    """Seconds of steps, what compiling takes, and the setting that decides otherwise."""
    compiled_as(recipe("scratch").with_overrides({"epochs": 60, "batch_size": 512}), CUDA, 33_593)

    assert capsys.readouterr().err == (
        "compile: off, since steps of 224 px take some 81 s, of which compiling saves a quarter"
        " and takes 40; --set compile=on decides otherwise\n"
    )


def test_a_run_that_goes_on_keeps_what_it_began_with(capsys):
    """A short run that gets more epochs is still the same run; one from a CPU is asked anew."""
    config = TrainConfig(epochs=200, batch_size=512)
    short = {"device": "cuda (NVIDIA H100)", "compiled": "off"}

    assert "off" == compiled_as(config, CUDA, 33_593, before=short)
    assert "" == capsys.readouterr().err
    assert "on" == compiled_as(config, CUDA, 33_593, before={**short, "device": "cpu (AVX2)"})
    assert "off" == compiled_as(config, CPU, 33_593, before={**short, "compiled": "on"})
