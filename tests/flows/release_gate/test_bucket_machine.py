"""Two publishers and a server on one bucket, each killed or cut off at every request."""

import hashlib
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from service.errors import ConflictError, NotFoundError, UnavailableError
from service.models import triton_config
from service.models.bucket import BucketRepository
from service.models.repository import ModelRepository
from service.models.working_copy import working_copy
from tests.flows.release_gate.interleaved import Process, current, step
from tests.flows.release_gate.test_repository_machine import Model

KEEP = 2
MODEL = "food"
URL = "s3://bucket/models"
CONFIG = f"bucket/models/{MODEL}/config.pbtxt"
ROLES = ("publisher", "other publisher", "server")


class RefusedError(OSError):
    """As s3fs raises where a condition does not hold."""

    def __init__(self) -> None:
        super().__init__("precondition failed")
        self.__cause__ = Exception()
        self.__cause__.response = {"Error": {"Code": "PreconditionFailed"}}


class Store:
    """Stands in for s3fs's file system: each request stops its process before and after it.

    Attributes:
        files: Path → content.
        changed: Called after each change.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.changed = lambda: None

    def cat_file(self, path: str) -> bytes:
        return self._request(lambda: self._there(path))

    def info(self, path: str) -> dict:
        return self._request(lambda: self._info(path))

    def find(self, top: str, *, detail: bool) -> dict:
        assert detail
        return self._request(
            lambda: {path: self._info(path) for path in self.files if path.startswith(f"{top}/")}
        )

    def get_file(self, path: str, local: str) -> None:
        self._request(lambda: Path(local).write_bytes(self._there(path)))

    def put_file(self, local: str, path: str) -> None:
        self.pipe_file(path, Path(local).read_bytes())

    def pipe_file(self, path: str, data: bytes, **condition: str) -> None:
        def write() -> None:
            if "IfNoneMatch" in condition and path in self.files:
                raise RefusedError
            if "IfMatch" in condition and self._info(path)["ETag"] != condition["IfMatch"]:
                raise RefusedError
            self.files[path] = data
            self.changed()

        self._request(write)

    def rm_file(self, path: str) -> None:
        self._request(lambda: self.files.pop(path, None))

    def _there(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def _info(self, path: str) -> dict:
        content = self._there(path)
        return {"ETag": hashlib.sha256(content).hexdigest(), "size": len(content)}

    def _request(self, work):
        step()
        fate = ""
        if me := current():
            fate, me.fate = me.fate, ""
        if fate == "refused":
            raise ConnectionError("the network is away")
        found = work()
        if fate == "lost":
            raise ConnectionError("the answer was lost")
        step()
        return found


class Buckets(RuleBasedStateMachine):
    """Whatever is done, in whatever order, whoever is killed or cut off: something sound serves."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.bucket = Store()
        self.patches = [
            patch("storage.bucket.file_system", lambda: self.bucket),
            patch("service.models.model.Model", Model),
            patch("os.fsync", lambda _: None),
        ]
        for each in self.patches:
            each.__enter__()
        self.numbers = itertools.count(1)
        self.running: dict[str, Process] = {}
        self.contents: dict[int, str] = {}
        self.switches: list[int] = []
        self.reported: set[str] = set()
        self.bucket.changed = self._see
        self._publish("the first")()

    def teardown(self) -> None:
        try:
            for role in ROLES:
                self._run(role, 10**6)
            self.history_is_what_was_seen()
        finally:
            for each in reversed(self.patches):
                each.__exit__(None, None, None)
            shutil.rmtree(self.root)

    @rule(
        role=st.sampled_from(ROLES),
        what=st.sampled_from(["publish", "rollback", "kept"]),
        steps=st.integers(1, 30),
        fate=st.sampled_from(["", "", "refused", "lost", "killed"]),
    )
    def go_on(self, role, what, steps, fate):
        """One of them makes some requests, the last of which may fail, or be its last."""
        self._begin(role, what)
        self._run(role, steps)
        if role not in self.running or not fate:
            return
        if fate == "killed":
            self.running[role].kill()
        self.running[role].fate = fate
        self._run(role, 1)

    @invariant()
    def sound(self):
        """A server that starts now gets a whole version; no version ever changes."""
        with tempfile.TemporaryDirectory(dir=self.root) as name:
            BucketRepository(URL, Path(name)).pull()
            store = ModelRepository(Path(name))
            assert store.serving(MODEL) == self.switches[-1]
            for version in store.versions(MODEL):
                store.verify(MODEL, version)
                text = store.path(MODEL, version).read_text("utf-8")
                assert text == self.contents.setdefault(version, text), "a version changed"

    def history_is_what_was_seen(self):
        """History has each change of what serves once, in their order, and each that succeeded."""
        with working_copy(Path(URL)) as folder:
            ModelRepository(folder).note(MODEL, "kept", {"reason": "the end"})
        text = self.bucket.files[f"bucket/models/{MODEL}/history.jsonl"].decode()
        lines = [json.loads(line) for line in text.splitlines()]
        changes = [line for line in lines if line["event"] in ("released", "rolled back")]
        assert self.switches == [line["version"] for line in changes]
        assert [None, *self.switches[:-1]] == [line["replaced"] for line in changes]
        reasons = [line["reason"] for line in lines]
        assert len(set(reasons)) == len(reasons), "a line is there twice"
        assert self.reported <= set(reasons), "what succeeded is not in the history"

    def _begin(self, role: str, what: str) -> None:
        if role in self.running:
            return
        name = f"number {next(self.numbers)}"
        works = {
            "publish": self._publish(name),
            "rollback": self._change(name, lambda store: store.rollback(MODEL, reason=name)),
            "kept": self._change(name, lambda store: store.note(MODEL, "kept", {"reason": name})),
        }
        self.running[role] = Process(self._load if role == "server" else works[what])

    def _publish(self, name: str):
        onnx = self.root / f"{name}.onnx"
        onnx.write_text(f"{name} is whole")
        return self._change(
            name, lambda store: store.publish(MODEL, onnx, keep=KEEP, record={"reason": name})
        )

    def _change(self, name: str, work):
        def change() -> None:
            with working_copy(Path(URL)) as folder:
                work(ModelRepository(folder))
            self.reported.add(name)

        return change

    def _load(self) -> None:
        """Pull as a server does until it is there, and check what came each time."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        bucket = BucketRepository(URL, folder)
        for _ in range(3):
            try:
                bucket.pull(most=1)
            except (UnavailableError, NotFoundError):
                if not (folder / MODEL / "config.pbtxt").exists():
                    continue
            store = ModelRepository(folder)
            store.verify(MODEL, store.serving(MODEL))

    def _run(self, role: str, steps: int) -> None:
        while steps and role in self.running:
            process = self.running[role]
            process.go_on(1)
            steps -= 1
            if process.ended:
                del self.running[role]
                assert process.error is None or isinstance(
                    process.error, ConflictError | NotFoundError | UnavailableError
                ), repr(process.error)

    def _see(self) -> None:
        config = triton_config.parse(self.bucket.files.get(CONFIG, b""), CONFIG)
        serving = triton_config.serving_version(config)
        if serving is not None and [serving] != self.switches[-1:]:
            self.switches.append(serving)


TestBuckets = Buckets.TestCase
TestBuckets.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.long
def test_more_orders_of_events_hold():
    """Three times as many as by day."""
    run_state_machine_as_test(Buckets, settings=settings(TestBuckets.settings, max_examples=60))
