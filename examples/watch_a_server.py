"""Print what a server does, from its metrics: calls and images a second, and the mean times.

python examples/watch_a_server.py http://localhost:8002/metrics [SECONDS]
"""

import sys
import time
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

STAGES = ("request", "queue", "decode", "compute")


def read(url: str) -> dict[str, float]:
    """Return every sample of the page, summed over its labels."""
    found: dict[str, float] = {}
    with urlopen(url, timeout=5) as page:  # noqa: S310  # an address that you gave
        for family in text_string_to_metric_families(page.read().decode()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def main(url: str, seconds: float) -> None:
    """Look twice, and print what happened in between."""
    before = read(url)
    time.sleep(seconds)
    after = read(url)
    happened = {name: value - before.get(name, 0) for name, value in after.items()}
    print(f"{happened['hansang_batch_images_sum'] / seconds:.1f} images/s")
    for stage in STAGES:
        count = happened[f"hansang_{stage}_seconds_count"]
        mean_ms = 1000 * happened[f"hansang_{stage}_seconds_sum"] / count if count else 0
        print(f"{stage:8} {count:6.0f} times, {mean_ms:.1f} ms each")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 10)
