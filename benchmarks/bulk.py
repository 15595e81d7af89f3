"""What one photo costs a server: the CPU time and memory that docs/guides/scaling.md multiplies.

    python -m benchmarks.bulk --image-size 224 --photos 1000

One client sends photos over one bulk stream, as `hansang classify FOLDER` does. CPU time is the
server's alone, so that the client beside it, and whoever else uses the machine, hardly count.
"""

import argparse
import json
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from benchmarks import rig
from service.client import Classifier


def main() -> None:
    """Measure ResNet18 with random weights; print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--photos", type=int, default=1000)
    given = parser.parse_args()
    photos = rig.photos(24)
    with tempfile.TemporaryDirectory() as name:
        model = rig.real_model(Path(name) / "model.onnx", image_size=given.image_size)
        with rig.published(model) as store, rig.Server(store.root) as server:
            with Classifier(f"127.0.0.1:{server.port}") as classifier:
                warm = list(classifier.bulk(photos))
                assert all(result.classes for result in warm)
                start_s, start_cpu_s = time.monotonic(), server.cpu_s()
                count = sum(1 for _ in classifier.bulk(islice(cycle(photos), given.photos)))
                seconds, cpu_s = time.monotonic() - start_s, server.cpu_s() - start_cpu_s
            figures = {
                "image_size": given.image_size,
                "photos": count,
                "bytes_per_photo": round(sum(map(len, photos)) / len(photos)),
                "photos_per_s": round(count / seconds, 1),
                "server_cpu_ms_per_photo": round(1000 * cpu_s / count, 2),
                "photos_per_core_second": round(count / cpu_s, 1),
                "server_rss_mb": round(server.rss_mb()),
            }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
