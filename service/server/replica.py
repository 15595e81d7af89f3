"""One replica of `hansang serve --workers N`: an ordinary server that a parent supervises.

    python -m service.server.replica SOCKET CONFIG

`replicas.py` starts it. SOCKET is the descriptor of the socket to the parent, and CONFIG is the
settings as JSON. `process.run` specifies what goes over the socket.
"""

import json
import signal
import socket
import sys

import terminal


def main() -> None:
    """Serve until the parent sends a signal or ends."""
    # The parent's signals wait in the socket until the server reads them.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    from service.config import ServerConfig
    from service.observability.logs import set_up
    from service.server.process import run

    parent = socket.socket(fileno=int(sys.argv[1]))
    config = ServerConfig.from_json(json.loads(sys.argv[2]))
    set_up(style=config.log_format, level=config.log_level)
    terminal.run(lambda: sys.exit(run(config, parent=parent)))


if __name__ == "__main__":
    main()
