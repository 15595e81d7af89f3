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


@pytest.mark.parametrize(
    ("idle", "free"), [((100, 100), 2), ((100, 4), 1), ((3, 5), 1), ((60, 55), 1), ((90, 80), 2)]
)
def test_cores_that_others_compute_on_are_not_free(tmp_path, monkeypatch, idle, free):
    """Beside a busy neighbour one of two cores is left, and never none; others are not ours."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "_STAT", stat)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(machine, "num_cores", lambda: 2)

    def write(ticks: int) -> None:
        lines = ["cpu 1 2 3 4 5 6 7 8", *(
            f"cpu{core} {(100 - part) * ticks} 0 0 {part * ticks} 0 0 0 0 0 0"
            for core, part in enumerate((*idle, 100))
        )]  # fmt: skip
        stat.write_text("\n".join(lines))

    write(1)
    monkeypatch.setattr(machine.time, "sleep", lambda _: write(2))

    assert free == machine.free_cores()
    stat.unlink()
    assert machine.free_cores() == 2


def test_a_new_run_leaves_a_busy_core_alone(monkeypatch, capsys):
    """It says how many threads it takes, and why; several processes share what is free."""
    from training.loop import trainer

    monkeypatch.setattr(trainer, "num_cores", lambda: 8)
    monkeypatch.setattr(trainer, "free_cores", lambda: 6)

    assert [6, 3, 1] == [trainer.threads_for(processes) for processes in (1, 2, 8)]
    assert "other programs compute on 2 of 8 cores" in capsys.readouterr().err
    monkeypatch.setattr(trainer, "free_cores", lambda: 8)
    assert 8 == trainer.threads_for(1)
    assert not capsys.readouterr().err


def test_training_and_flows_ask_the_same_question(monkeypatch):
    """Threads of a search's worker, and processes that decode, are the granted cores."""
    from flows.tasks import parameters
    from training.data import decoding

    assert machine.num_cores is parameters.num_cores
    assert machine.num_cores is decoding.num_cores
