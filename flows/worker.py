"""`python -m flows.worker`: the Prefect worker of `flows.prefect_setup.worker`."""

import sys

from flows.prefect_setup.worker import main

if __name__ == "__main__":
    sys.exit(main())
