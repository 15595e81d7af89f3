"""`python -m service.probe`: the health probe of `service.server.health_probe`."""

import sys

from service.server.health_probe import main

if __name__ == "__main__":
    sys.exit(main())
