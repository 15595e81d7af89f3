"""What a flow did does not fail because it cannot be shown."""

import logging

import pytest

from flows.tasks import artifacts


@pytest.fixture
def said(monkeypatch, caplog) -> list[str]:
    """Give the lines that a flow's log would have."""
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("flow"))
    caplog.set_level(logging.INFO, "flow")
    return caplog.messages


@pytest.mark.parametrize(("failures", "level"), [(0, None), (2, "yet"), (3, "not published:")])
def test_what_cannot_be_shown_for_a_while_is_tried_again(said, caplog, failures, level):
    """Two failures cost a moment; the third is a warning, and no failure of the flow."""
    left, shown = [OSError("the server is away")] * failures, []

    def publish():
        if left:
            raise left.pop()
        shown.append(True)

    artifacts.or_warn("the sheet", publish, pauses_s=(0, 0))

    assert shown == ([True] if failures < 3 else [])
    assert min(failures, 3) == len(caplog.messages)
    assert level is None or level in caplog.messages[-1]
