"""Look for inputs that break a promise, guided by coverage, with atheris.

    python -m tests.fuzz.run image|exif|tensor|config|stream|body MINUTES FOLDER     (make fuzz)

FOLDER keeps the inputs that reached something new, so that the next night goes on from them. What
is found is written there as `crash-*`: mend it, and put the input into tests/fuzz/found/TARGET.
"""

import sys
from pathlib import Path

import atheris

FOUND = Path(__file__).parent / "found"
MARKERS = "\n".join(
    [
        *(f'"\\xff\\x{kind:02x}"' for kind in (0x01, 0xC0, 0xC2, 0xC4, 0xD0, 0xD7, 0xD8, 0xD9)),
        *(f'"\\xff\\x{kind:02x}"' for kind in (0xDA, 0xDB, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xFF)),
        '"\\xff\\xc0\\x00\\x11\\x08"', '"Exif\\x00\\x00"', '"ICC_PROFILE\\x00"', '"MM\\x00*"',
        '"tiff:Orientation="', '"IHDR"', '"IDAT"', '"iCCP"', '"zTXt"', '"RIFF"', '"VP8X"', '"ftyp"',
        '"inputs"', '"images"', '"datatype"', '"shape"', '"BYTES"', '"UINT8"', '"data"', '"topK"',
        '"binary_data_size"', '"parameters"', '"outputs"', '"probabilities"', '"classification"',
        '"version_policy"', '"specific"', '"versions"', '"string_value"',
        '"hansang.served_before"',
    ]
)  # fmt: skip
"""Words that inputs are made of, which chance would take long to spell."""


def main() -> None:
    """Fuzz one target."""
    name, minutes, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    with atheris.instrument_imports(
        include=["service", "google.protobuf.text_format", "google.protobuf.json_format"],
        exclude=["service.pb"],
    ):
        from tests.fuzz import targets
    from tests.fuzz.jpeg_mutator import mutate
    from tests.fuzz.seeds import seeds

    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text(MARKERS)
    options = [
        f"-max_total_time={60 * minutes:.0f}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=2048",
        f"-artifact_prefix={folder}/", f"-dict={words}", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    made = seeds(name)
    jpegs = [each for each in made if each[:2] == b"\xff\xd8"]

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        return mutate(data, most, seed, jpegs, atheris.Mutate)

    folders = [str(corpus), *map(str, [FOUND / name] * (FOUND / name).is_dir())]
    atheris.Setup(
        [sys.argv[0], *options, *folders],
        lambda data: targets.check(name, data),
        **({"custom_mutator": mutator} if jpegs else {}),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
