"""What befalls the server of a world: releases, rollbacks, slow and failing runs, standstills."""

import asyncio
import math
from typing import TYPE_CHECKING, Any

from service.errors import ModelContractError, NotFoundError

if TYPE_CHECKING:
    from tests.service.simulation.world import World


async def trouble(world: "World") -> None:
    """Let things happen that a server has to bear, until cancelled."""
    draw, models = world.draw, world.server.models
    while world.troubles:
        await asyncio.sleep(draw.expovariate(1) * 400 * world.gap_s)
        name = draw.choice(models.repository.models())
        kind = draw.random()
        if kind < 0.3:
            _publish(world, name, sound=draw.random() < 0.7)
        elif kind < 0.4:
            world.repository.there[name] = draw.randint(1, world.repository.there[name])
        elif kind < 0.6:
            run_s = 1.5 * (world.run_s + world.image_s * world.config.max_batch)
            # Below what counts as a run that hangs.
            await _lasts(world, name, "slowness", min(draw.choice((3.0, 30.0)), 25 / run_s))
        elif kind < 0.8:
            await _lasts(world, name, "raises", True)
        elif kind < 0.9:
            world.machine.stand_still(draw.choice((0.1, 2.0, 36.0)))
        else:
            await _unload_for_a_while(world, name)


def _publish(world: "World", name: str, *, sound: bool) -> None:
    version = world.repository.there[name] + 1
    while not sound and (name, version) in world.repository.unsound:
        version += 1
    if not sound:
        world.repository.unsound.add((name, version))
    world.repository.there[name] = version
    world.repository.changes += 1


async def _lasts(world: "World", name: str, what: str, value: Any) -> None:
    """Set something of the loaded models for a while."""
    loaded = [each.model for each in world.server.models.loaded if each.name == name]
    for model in loaded:
        before = getattr(model, what)
        setattr(model, what, value)
    try:
        # Shorter than what ends the process.
        await asyncio.sleep(min(world.draw.random() * 500 * world.gap_s, 20))
    finally:
        for model in loaded:
            setattr(model, what, before)


async def _unload_for_a_while(world: "World", name: str) -> None:
    models = world.server.models
    world.unloaded_s = math.inf
    try:
        await models.unload_model(name)
    except NotFoundError:
        assert name in models.unloaded, "a model that nobody unloaded is not loaded"
    await asyncio.sleep(world.draw.random() * 200 * world.gap_s)
    try:
        await models.load_model(name)
    except ModelContractError:
        version = world.repository.there[name]
        assert (name, version) in world.repository.unsound, "a sound version is refused"
    if not models.unloaded:
        world.unloaded_s = world.machine.now
