"""The budget of bytes by itself: what bulk leaves, and who is refused."""

import asyncio
from contextlib import ExitStack

import pytest

from service.batching.byte_budget import ByteBudget
from service.batching.priority_queue import Priority
from service.errors import OverloadedError
from service.observability.metrics import Metrics


async def test_bulk_leaves_a_quarter_of_the_bytes():
    """Of 1,000 bytes bulk gets 750 at the most; interactive calls get all that is left."""
    budget = ByteBudget(1000, Metrics(), largest=100)

    async def more_bulk(count: int) -> None:
        async with budget.admit_when_free(count, priority=Priority.BULK):
            pass

    with budget.admit(700, images=1, priority=Priority.BULK):
        await asyncio.wait_for(more_bulk(50), 5)
        waiting = asyncio.ensure_future(more_bulk(51))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        with pytest.raises(OverloadedError):
            budget.admit(51, images=1, priority=Priority.BULK).__enter__()
        with ExitStack() as interactive:
            for _ in range(3):
                interactive.enter_context(budget.admit(100, images=1))
            with pytest.raises(OverloadedError, match="try again later"):
                budget.admit(1, images=1).__enter__()
    await asyncio.wait_for(waiting, 5)
