"""What Prefect keeps of a run, and shows to whoever opens its page."""

import pytest
from pydantic import ValidationError

from flows.tasks.parameters import Search


def test_a_password_is_no_parameter():
    """It is refused with what to do; an address without one is taken."""
    with pytest.raises(ValidationError, match="HANSANG_STORAGE") as refused:
        Search(storage="postgresql://prefect:secret@db/studies")
    assert "HANSANG_STORAGE in the worker's environment" in str(refused.value)
    assert "db" in str(Search(storage="postgresql://prefect@db/studies").storage)
