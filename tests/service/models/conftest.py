"""A model repository in a folder of its own."""

import pytest

from service.models.repository import ModelRepository


@pytest.fixture
def store(tmp_path) -> ModelRepository:
    """The repository that `publish` fills."""
    return ModelRepository(tmp_path / "models")
