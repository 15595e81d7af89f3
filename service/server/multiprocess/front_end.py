"""A front end: receives, checks and decodes, and has the models' process compute.

    python -m service.server.multiprocess.front_end SOCKET MEMORY

`model_process.py` starts it with these two files open. It listens on the port that its siblings
listen on, too: the system gives each of them a part of the connections. It ends when it is told to,
or when the models' process is gone.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys

from service.config import ServerConfig
from service.errors import ServiceError
from service.memory import limit_heaps
from service.observability.logs import set_up
from service.server.multiprocess.channel import Kind, Link, Slots
from service.server.multiprocess.remote_model import Remote, RemotePool
from service.server.process import loop_factory
from service.server.server import Server, tidy
from service.server.watchdog import EXIT_FAULT, watch_event_loop

_MEASURE_S = 1.0


class FrontEnd(Server):
    """A server whose models are in another process."""

    shares_port = True
    models: RemotePool

    def __init__(self, config: ServerConfig, link: Link, slots: Slots) -> None:
        super().__init__(config)
        self._link = link
        self._remote = Remote(link, slots)
        self.models = RemotePool(config, self.metrics, self._remote)
        self._quota = self._take
        self.followed = asyncio.Event()
        self.told_to_stop = asyncio.Event()

    async def follow(self) -> None:
        """Do what the models' process tells, and take its answers.

        Raises:
            EOFError: It is gone.
        """
        while True:
            kind, body = await self._link.receive()
            if kind is Kind.STATE:
                state = json.loads(body)
                self.models.follow(state)
                self._loaded = state["serving"]
                await self._update_health()
                self.followed.set()
                self._link.send(Kind.FOLLOWED, bytes([self._loaded]))
            elif kind is Kind.STOP:
                self.grace_s = json.loads(body)
                if not self.grace_s:
                    self.abort_calls()
                self.told_to_stop.set()
            else:
                self._remote.answered(kind, body)

    async def measure(self) -> None:
        """Tell what was counted, again and again."""
        while True:
            await asyncio.sleep(_MEASURE_S)
            self.models.measure()

    async def _update_health(self) -> None:
        # That the whole serves is counted once, where the models are.
        await self._health.set(serving=self._loaded and not self._draining)

    async def _take(self, name: str, images: int) -> float:
        return float(await self._remote.ask("take", name, images))


async def serve(sock: socket.socket, memory: int) -> None:
    """Serve until told to stop.

    Raises:
        EOFError: The models' process is gone.
        ServiceError: The port cannot be had, or a certificate not be read.
    """
    # A signal is for the models' process, which tells when to stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    link = await Link.over(sock)
    _, body = await link.receive()
    config = ServerConfig.from_json(json.loads(body))
    set_up(style=config.log_format, level=config.log_level)
    server = FrontEnd(config, link, Slots(memory, config.queue_size))
    following = asyncio.create_task(server.follow())
    works = (
        watch_event_loop(config.run_timeout_s),
        tidy(),
        server.measure(),
        server.reload_tokens(),
    )
    background = [following, *(asyncio.create_task(work) for work in works)]
    # Whoever connects to one that starts late finds what its siblings serve.
    hearing = asyncio.create_task(server.followed.wait())
    await asyncio.wait({following, hearing}, return_when=asyncio.FIRST_COMPLETED)
    if not hearing.done():
        hearing.cancel()
        following.result()
    await server.listen()
    link.send(Kind.LISTENING)

    async def until_stopped() -> None:
        await server.told_to_stop.wait()
        await server.stop()

    ending = asyncio.create_task(until_stopped())
    await asyncio.wait({following, ending}, return_when=asyncio.FIRST_COMPLETED)
    if not ending.done():
        following.result()
    for work in background:
        work.cancel()
    server.models.measure()
    await link.close()


def main() -> None:
    """Serve with the two files that the command line names."""
    limit_heaps()
    code = 0
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))
    except EOFError:
        code = EXIT_FAULT
        logging.getLogger(__name__).critical("the models' process is gone, and this one with it")
    except ServiceError as error:
        code = 1
        logging.getLogger(__name__).error("%s", error)
    logging.shutdown()
    # A thread that still decodes would be waited for.
    os._exit(code)


if __name__ == "__main__":
    main()
