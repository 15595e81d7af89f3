"""The names that a notebook imports from `training`; test_reference.py runs the page about them."""

import subprocess
import sys

import pytest

import training


def test_importing_training_loads_nothing_heavy():
    """A name is loaded when it is asked for, so `import training` costs no seconds for torch."""
    code = (
        "import sys, training; assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules);"
        " from training import recipe; assert 'torch' not in sys.modules; print(recipe('scratch'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert "" == ran.stderr
    assert ran.stdout.startswith("TrainConfig(")


def test_every_public_name_is_one_that_its_module_has():
    """What `from training import *` promises is there, and what it does not is an error."""
    for name in training.__all__:
        assert name == getattr(training, name).__name__
        assert getattr(training, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = training.fit
