"""A model repository in a bucket, on a real S3 server whose network cuts, refuses and delays."""

import asyncio
import errno
import tempfile
from pathlib import Path

import pytest

from service.errors import ConflictError, ServiceError, UnavailableError
from service.models.bucket import BucketRepository
from service.models.repository import ModelRepository
from service.models.working_copy import working_copy
from service.pb import classifier_pb2 as pb
from service.server.server import Server
from storage import StorageError, bucket_url, shown

WEIGHTS = {
    "red": [[0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.05]],
    "blue": [[0, 0, 0.05], [0, 0.05, 0], [0.05, 0, 0]],
}
URL = "s3://bucket/models"


@pytest.fixture
def release(bucket, tiny_onnx, tmp_path):
    """Give `release("red")`, which publishes a tiny model into the bucket, as the verb does."""

    def one(colour: str = "red", url: str = URL) -> int:
        with working_copy(Path(url)) as folder:
            return ModelRepository(folder).publish(
                "food", tiny_onnx(tmp_path / "tiny.onnx", weights=WEIGHTS[colour])
            )

    return one


def test_path_that_typer_made_of_a_url_is_the_url_again():
    """A Path keeps one slash of two; a folder is no bucket."""
    assert URL == bucket_url(Path(URL))
    assert bucket_url(Path("models")) is None
    assert bucket_url(Path("/s3/models")) is None
    assert (URL, "models") == (shown(Path(URL)), shown(Path("models")))


def test_a_copy_without_room_says_how_much_it_takes(tmp_path, monkeypatch):
    """A small /tmp that fills up during a pull: the place, the size of all, and the way out."""

    class Full:
        def __init__(self, url: str, **_: object) -> None: ...

        def tags(self) -> dict[str, str]:
            return {"food/config.pbtxt": "1"}

        def tagged(self, name: str) -> tuple[bytes, str]:
            raise StorageError(f"{name} cannot be read") from OSError(errno.ENOSPC, "no space")

        def size(self) -> int:
            return 45 * 2**20

    monkeypatch.setattr("service.models.bucket.Bucket", Full)

    words = f"a copy of {URL} has no room in {tmp_path}: no space; all of it takes 45 MiB.*TMPDIR"
    with pytest.raises(UnavailableError, match=words):
        BucketRepository(URL, tmp_path).pull()


def test_a_server_without_a_place_for_its_copy_does_not_start(config, monkeypatch):
    """Where no temporary folder can be made, the system's words and TMPDIR are the answer."""

    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)

    words = f"a copy of {URL} needs a place for a while: .*TMPDIR"
    with pytest.raises(UnavailableError, match=words):
        Server(config(repository=Path(URL)))


async def test_server_starts_from_a_bucket_and_swaps(
    release, serve, connect, photo, eventually, bucket
):
    """A release into the bucket is served within its poll; so is the rollback."""
    release("red")
    server = await serve(repository=Path(URL))
    stub = connect(server.port)

    async def answer() -> tuple[int, str]:
        found = await stub.Classify(pb.ClassifyRequest(images=[photo("red")], top_k=1))
        return found.model_version, found.results[0].classes[0].label

    assert (1, "red") == await answer()
    assert 2 == await asyncio.to_thread(release, "blue")
    await eventually(lambda: server.models.find("food").version == 2)
    assert (2, "blue") == await answer()

    def back() -> None:
        with working_copy(Path(URL)) as folder:
            assert 1 == ModelRepository(folder).rollback("food")

    await asyncio.to_thread(back)
    await eventually(lambda: server.models.find("food").version == 1)
    assert (1, "red") == await answer()
    copy = server.config.repository
    assert ["1"] == [path.name for path in (copy / "food").glob("[0-9]*")]
    await server.stop()
    assert not copy.exists()


async def test_network_that_fails_half_of_the_time_changes_nothing_but_the_time(
    release, serve, connect, photo, eventually, network
):
    """Connections are closed, refused with 503 and cut in mid-body: every swap arrives, whole."""
    release("red")
    with network.used():
        server = await serve(repository=Path(URL))
    stub = connect(server.port)
    network.bad = 0.5
    for number, colour in enumerate(("blue", "red", "blue"), start=2):
        assert number == await asyncio.to_thread(release, colour)
        await eventually(lambda n=number: server.models.find("food").version == n, within_s=60)
        found = await stub.Classify(pb.ClassifyRequest(images=[photo("red")], top_k=1))
        assert (number, colour) == (found.model_version, found.results[0].classes[0].label)
    assert network.hit > 3
    await server.stop()


async def test_bucket_that_is_away_costs_no_call(
    release, serve, connect, photo, eventually, network, caplog
):
    """The loaded version serves on; failures are counted and said once; it comes back by itself."""
    release("red")
    with network.used():
        server = await serve(repository=Path(URL))
    network.bad = 1.0
    count = server.metrics.registry.get_sample_value
    await eventually(lambda: count("hansang_pull_failures_total") > 0, within_s=60)
    await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")]))
    assert "what is loaded serves on" in caplog.text
    await asyncio.to_thread(release, "blue")
    network.bad = 0.0
    await eventually(lambda: server.models.find("food").version == 2, within_s=60)
    await server.stop()


def test_half_a_version_does_not_count(release, bucket, tmp_path):
    """What a killed publisher left is not pulled, and its number is not used again."""
    release("red")
    bucket.pipe_file("bucket/models/food/2/.claimed", b"somebody")
    bucket.pipe_file("bucket/models/food/2/model.onnx", b"half")
    BucketRepository(URL, tmp_path / "copy").pull()
    assert [1] == ModelRepository(tmp_path / "copy").versions("food")
    assert 3 == release("blue")


@pytest.mark.parametrize("broken", range(8))
def test_publisher_that_dies_anywhere_leaves_the_old_version(
    release, bucket, tmp_path, monkeypatch, broken
):
    """Its writes end after `broken` of them: readers get version 1 or 2, whole, and never less."""
    release("red")
    left = [broken]
    outcome = None
    with monkeypatch.context() as patched:
        for name in ("pipe_file", "put_file"):
            inner = getattr(type(bucket), name)

            def write(self, *given, _inner=inner, **settings):
                if not left[0]:
                    raise OSError("the publisher is gone")
                left[0] -= 1
                return _inner(self, *given, **settings)

            patched.setattr(type(bucket), name, write)
        try:
            release("blue")
        except UnavailableError as error:
            outcome = error
    copy = BucketRepository(URL, tmp_path / "copy")
    copy.pull()
    store = ModelRepository(tmp_path / "copy")
    serving = store.serving("food")
    store.verify("food", serving)
    assert serving in (1, 2)
    assert outcome or serving == 2


def test_of_two_publishers_one_is_told_to_release_again(release, bucket, tiny_onnx, tmp_path):
    """Both began from version 1: the second one's version is not taken, and nothing is lost."""
    release("red")
    onnx = tiny_onnx(tmp_path / "late.onnx", weights=WEIGHTS["red"])
    with pytest.raises(ConflictError, match="release again"):  # noqa: PT012, SIM117
        with working_copy(Path(URL)) as folder:
            ModelRepository(folder).publish("food", onnx)
            assert 2 == release("blue")
    copy = BucketRepository(URL, tmp_path / "copy")
    copy.pull()
    store = ModelRepository(tmp_path / "copy")
    assert 2 == store.serving("food")
    store.verify("food", 2)


def test_who_changes_something_else_neither_conflicts_nor_loses_a_line(
    release, bucket, tiny_onnx, tmp_path
):
    """During a release of food another one notes a refusal, and a third one releases drinks."""
    release("red")
    onnx = tiny_onnx(tmp_path / "drink.onnx", weights=WEIGHTS["red"])
    with working_copy(Path(URL)) as one, working_copy(Path(URL)) as other:
        ModelRepository(one).note("food", "kept", {"version": 1, "reason": "not better"})
        ModelRepository(other).publish("drink", onnx)
        assert 2 == release("blue")
    with working_copy(Path(URL)) as folder:
        there = ModelRepository(folder)
        assert (1, 2) == (there.serving("drink"), there.serving("food"))
        assert ["released", "released", "kept"] == [e["event"] for e in there.history("food")]


async def test_damaged_object_is_refused_and_the_old_version_serves_on(
    release, serve, connect, photo, eventually, tiny_onnx, tmp_path
):
    """A model file that is not its manifest's is refused, counted and named; a good one follows."""
    release("red")
    server = await serve(repository=Path(URL))

    def damaged() -> None:
        with working_copy(Path(URL)) as folder:
            onnx = tiny_onnx(tmp_path / "tiny.onnx", weights=WEIGHTS["blue"])
            path = ModelRepository(folder).path(
                "food", ModelRepository(folder).publish("food", onnx)
            )
            path.write_bytes(path.read_bytes().replace(b"tiny-run", b"tiny-ruN"))

    await asyncio.to_thread(damaged)
    count = server.metrics.registry.get_sample_value
    await eventually(
        lambda: count("hansang_swap_failures_total", {"model": "food"}) == 1, within_s=30
    )
    assert "SHA-256" in server.models.refusals["food"]
    found = await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")], top_k=1))
    assert (1, "red") == (found.model_version, found.results[0].classes[0].label)
    assert 3 == await asyncio.to_thread(release, "blue")
    await eventually(lambda: server.models.find("food").version == 3, within_s=30)
    await server.stop()


def test_wrong_bucket_is_a_clear_error(bucket, tmp_path):
    """The sentence names the URL."""
    with pytest.raises(ServiceError, match="s3://nowhere/models"):
        BucketRepository("s3://nowhere/models", tmp_path / "copy").pull()


async def test_a_start_after_a_damaged_release_serves_the_version_before(
    release, serve, bucket, eventually
):
    """It is pulled as well, though one version is asked for; the repaired one follows."""
    release("red")
    release("blue")
    path = "bucket/models/food/2/model.onnx"
    whole = bucket.cat_file(path)
    bucket.pipe_file(path, whole[:100])
    server = await serve(repository=Path(URL))
    assert 1 == server.models.find("food").version
    assert "SHA-256" in server.models.refusals["food"]
    await asyncio.to_thread(bucket.pipe_file, path, whole)
    await eventually(lambda: server.models.find("food").version == 2, within_s=30)
    await server.stop()


async def test_a_model_that_is_not_whole_yet_spares_the_others(
    release, serve, bucket, eventually, tiny_onnx, tmp_path
):
    """Its checksums arrive after config.pbtxt: the other model serves meanwhile, then both."""
    release("red")
    with working_copy(Path(URL)) as folder:
        ModelRepository(folder).publish("late", tiny_onnx(tmp_path / "late.onnx"))
    path = "bucket/models/late/1/SHA256SUMS"
    manifest = bucket.cat_file(path)
    bucket.rm_file(path)
    server = await serve(repository=Path(URL))
    assert ["food"] == [each.name for each in server.models.instances]
    await asyncio.to_thread(bucket.pipe_file, path, manifest)
    await eventually(lambda: len(server.models.instances) == 2, within_s=30)
    # And one that is removed there is said to be gone, and serves on.
    await asyncio.to_thread(bucket.rm, "bucket/models/late", recursive=True)
    await eventually(lambda: "late" in server.models.refusals, within_s=30)
    assert "no longer in" in server.models.refusals["late"]
    assert 1 == server.models.find("late").version
    await server.stop()
