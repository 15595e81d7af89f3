"""Two publishers, a drift and a server on one model repository, killed at every operation."""

import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
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

from flows.release_gate.traffic import remember
from service.errors import ConflictError, ModelContractError, NotFoundError
from service.models import triton_config
from service.models.repository import ModelRepository
from service.models.versions import verify_labels
from tests.flows.release_gate.interleaved import Process, interleaved
from tests.mutated import Mutation, mutated
from tests.paths import ROOT

KEEP = 2
MODEL = "food"
ROLES = ("publisher", "other publisher", "drift", "server")


class Model:
    """Stands in for `model.Model`, which takes 10 ms: what its file says is its one label."""

    def __init__(self, path: Path, device: str = "") -> None:
        text = path.read_text("utf-8")
        if not text.endswith(" is whole"):
            raise ModelContractError(f"{path} is damaged")
        self.metadata = SimpleNamespace(labels=[text], image_size=1)


class Repositories(RuleBasedStateMachine):
    """Whatever is done, in whatever order, and whoever is killed: something sound serves."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.ended = [interleaved(), patch("service.models.model.Model", Model)]
        for each in self.ended:
            each.__enter__()
        self.folder = self.root / "models" / MODEL
        self.store = ModelRepository(self.root / "models")
        self.numbers = itertools.count(1)
        self.running: dict[str, Process] = {}
        self.measured: dict[int, int] = {}
        self.contents: dict[int, str] = {}
        self.switches: list[int] = []
        self._publish(None)()
        self.sound()

    def teardown(self) -> None:
        try:
            for role in ROLES:
                self._run(role, 10**6)
            self.history_is_what_was_seen()
        finally:
            for each in reversed(self.ended):
                each.__exit__(None, None, None)
            shutil.rmtree(self.root)

    @rule(
        role=st.sampled_from(ROLES),
        what=st.sampled_from(["any", "measured", "rollback", "kept"]),
        steps=st.integers(1, 40),
    )
    def go_on(self, role, what, steps):
        """One of them does some operations; if it has nothing to do, it begins something."""
        self._begin(role, what)
        self._run(role, steps)

    @rule(role=st.sampled_from(ROLES[:3]), what=st.sampled_from(["any", "rollback", "kept"]),
          after=st.integers(0, 40))  # fmt: skip
    def kill(self, role, what, after):
        """One of them is killed after some more operations."""
        self._begin(role, what)
        self._run(role, after)
        if role in self.running:
            self.running[role].kill()
            self._run(role, 1)

    @invariant()
    def sound(self):
        """Each version is whole, and is what it was from the beginning; one of them serves."""
        self._see()
        assert self.store.serving(MODEL) in self.store.versions(MODEL)
        for version in self.store.versions(MODEL):
            self.store.verify(MODEL, version)
            text = self.store.path(MODEL, version).read_text("utf-8")
            assert text.endswith(" is whole")
            assert text == self.contents.setdefault(version, text), "a version changed"

    def history_is_what_was_seen(self):
        """History has each change of what serves once, in their order, and each that succeeded."""
        lines = self.store.history(MODEL)
        changes = [line for line in lines if line["event"] in ("released", "rolled back")]
        assert self.switches == [line["version"] for line in changes]
        assert [None, *self.switches[:-1]] == [line["replaced"] for line in changes]
        for version, measured_against in self.measured.items():
            (line,) = (line for line in changes if line["version"] == version
                       and line["event"] == "released")  # fmt: skip
            assert line["replaced"] == measured_against
        released = [line["version"] for line in changes if line["event"] == "released"]
        assert sorted(set(released)) == released, "a number was used twice"
        reasons = [line["reason"] for line in lines]
        assert len(set(reasons)) == len(reasons), "a line is there twice"
        # Publishing clears up what the killed ones left.
        version = self._publish(-1)()
        assert version == self.store.serving(MODEL)
        assert len(self.store.versions(MODEL)) == KEEP
        assert KEEP == len(list(self.folder.glob("[0-9]*"))), "half a version was left"
        left = [path.name for path in self.folder.glob(".tmp-*")]
        assert all(name.endswith("-.traffic.jsonl") for name in left), left

    def _begin(self, role: str, what: str) -> None:
        if role in self.running:
            return
        name, serving = self._new(), self.switches[-1]
        works = {
            "any": self._publish(-1),
            "measured": lambda: self.measured.update({self._publish(serving)(): serving}),
            "rollback": lambda: self.store.rollback(MODEL, reason=name),
            "kept": lambda: self.store.note(MODEL, "kept", {"reason": name}),
            "drift": lambda: remember(self.folder, [{"time_s": len(name), "version": 1}]),
            "server": self._load,
        }
        self.running[role] = Process(works.get(role, works[what]))

    def _new(self) -> str:
        return f"number {next(self.numbers)}"

    def _publish(self, instead_of):
        name = self._new()
        onnx = self.root / f"{name}.onnx"
        onnx.write_text(f"{name} is whole")
        return lambda: self.store.publish(
            MODEL, onnx, keep=KEEP, record={"reason": name}, instead_of=instead_of
        )

    def _load(self) -> str:
        """Do what `ModelPool` does at the start; return the content that is loaded."""
        try:
            return self._open(self.store.serving(MODEL))
        except (ModelContractError, OSError):
            for version in self.store.fallbacks(MODEL):
                try:
                    return self._open(version)
                except (ModelContractError, OSError):
                    continue
        raise AssertionError("a server that starts finds nothing to serve")

    def _open(self, version: int) -> str:
        self.store.verify(MODEL, version)
        model = Model(self.store.path(MODEL, version))
        verify_labels(self.store.path(MODEL, version), model.metadata.labels)
        return model.metadata.labels[0]

    def _run(self, role: str, steps: int) -> None:
        """Let one go on, and look after each operation at what serves."""
        while steps and role in self.running:
            process = self.running[role]
            process.go_on(1)
            self._see()
            steps -= 1
            if process.ended:
                del self.running[role]
                assert process.error is None or isinstance(
                    process.error, ConflictError | NotFoundError
                ), repr(process.error)
            elif steps > 10**5 and role != "server":
                # Who waits for the lock of another one cannot go on alone.
                for other in ROLES:
                    if other != role and other in self.running:
                        self.running[other].go_on(1)
                        self._see()

    def _see(self) -> None:
        """Note which version serves, by the configuration alone."""
        config = triton_config.parse((self.folder / "config.pbtxt").read_bytes(), "config.pbtxt")
        serving = triton_config.serving_version(config)
        if not self.switches or self.switches[-1] != serving:
            self.switches.append(serving)


TestRepositories = Repositories.TestCase
TestRepositories.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
NIGHT = settings(TestRepositories.settings, max_examples=120)


@pytest.mark.long
def test_more_orders_of_events_hold():
    """Three times as many as by day."""
    run_state_machine_as_test(Repositories, settings=NIGHT)


_VERSIONS = "service.models.versions"
_HISTORY = "service.models.history"
_REPOSITORY = "service.models.repository"
_LOOKS = "        if _LEFTOVER.fullmatch(left.name):\n"
_REPLACES = "        replace(folder / CONFIG, triton_config.to_text(config))\n"
_ADDS = "        history.add(folder, line)\n"
_REMOVED = '    removed = folder / f".tmp-{version}"\n    (folder / str(version)).rename(removed)'

MUTATIONS: dict[str, Mutation] = {
    "a publisher removes what a drift writes": (_VERSIONS, _LOOKS, "        if True:\n"),
    "what the killed left stays": (_VERSIONS, _LOOKS, "        if False:\n"),
    "a version is made in its place": (
        _VERSIONS, '    new = folder / f".tmp-{version}"', "    new = folder / str(version)",
    ),
    "a version is removed in its place": (
        _VERSIONS, _REMOVED, "    removed = folder / str(version)",
    ),
    "the configuration is written in its place": (
        _REPOSITORY, _REPLACES,
        "        (folder / CONFIG).write_text(triton_config.to_text(config))\n",
    ),
    "a line that a kill left out stays out": (
        _REPOSITORY, "                history.add(folder, self._latest(model))\n", "",
    ),
    "a line is added before the switch": (
        _REPOSITORY, _REPLACES + _ADDS, _ADDS + _REPLACES,
    ),
    "nobody holds the lock": (
        "service.files", "        fcntl.flock(lock, fcntl.LOCK_EX)\n", "",
    ),
    "what it was measured against is not looked at again": (
        _REPOSITORY, "if instead_of not in (-1, serving):", "if False:",
    ),
    "the version that serves is removed": (
        _REPOSITORY, "[version, *reversed(before), *reversed(others)]", "[*others, version]",
    ),
    "a line is added twice": (
        _HISTORY, "if line is None or line in _lines(folder):", "if line is None:",
    ),
}  # fmt: skip
_MUTATED = """
import sys
from tests.mutated import apply
apply(tuple(sys.argv[1:]))
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.flows.release_gate.test_repository_machine import NIGHT, Repositories
# Some faults show in few orders of events: 120 missed one of them.
settings = settings(NIGHT, phases=[Phase.generate], max_examples=1000)
run_state_machine_as_test(Repositories, settings=settings)
"""


def test_every_fault_can_be_put_in():
    """The night would find no fault in a module that has changed since."""
    assert all(mutated(mutation) for mutation in MUTATIONS.values())


@pytest.mark.long
@pytest.mark.parametrize("name", MUTATIONS)
def test_fault_that_was_put_in_is_found(name):
    """Each mutation of the repository breaks what the machine expects."""
    ran = subprocess.run(
        [sys.executable, "-c", _MUTATED, *MUTATIONS[name]], cwd=ROOT, capture_output=True, text=True
    )
    assert 1 == ran.returncode
    assert "state = Repositories()" in ran.stderr
