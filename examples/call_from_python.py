"""Classify photos with a running server, many calls at a time.

python examples/call_from_python.py localhost:8500 photos/val/*/*.jpg
"""

import asyncio
import sys
from pathlib import Path

from service.client import AsyncClassifier


async def main(address: str, photos: list[Path]) -> None:
    """Ask for each photo alone, all at once, and then for all of them over one stream."""
    async with AsyncClassifier(address) as classifier:
        images = [photo.read_bytes() for photo in photos]
        answers = await asyncio.gather(*(classifier.classify([image]) for image in images))
        for photo, (answer,) in zip(photos, answers, strict=True):
            # A photo that cannot be read has an error of its own; the others are answered.
            print(
                photo, answer.error or f"{answer.classes[0].label}, version {answer.model_version}"
            )

        count = 0
        async for _ in classifier.bulk(images):
            count += 1
        print(f"{count} photos over one stream")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [Path(name) for name in sys.argv[2:]]))
