"""How many cores a process may use, in a container and out of one."""

import pytest

import machine


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"cpu.max": "max 100000\n"}, 8),
        ("0::/", {"cpu.max": "9900000 100000\n"}, 8),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "250000\n",
                              "cpu/x/cpu.cfs_period_us": "100000\n"}, 3),
        ("nonsense", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_cores_are_those_that_the_container_was_granted(tmp_path, monkeypatch, group, files, cores):
    """A limit of CPU time counts as cores, rounded up; without one it is what the machine has."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "mine").write_text(group)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MINE", tmp_path / "mine")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))

    assert cores == machine.num_cores()


def test_training_and_flows_ask_the_same_question(monkeypatch):
    """Threads of a search's worker, and processes that decode, are the granted cores."""
    from flows.tasks import parameters
    from training.data import decoding

    assert machine.num_cores is parameters.num_cores
    assert machine.num_cores is decoding.num_cores
