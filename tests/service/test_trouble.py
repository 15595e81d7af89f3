"""Overload and bad images, against a server in a process of its own: `make trouble`, shorter."""

from benchmarks import rig, trouble
from service.model_store import ModelStore


async def test_overload(publish, tmp_path):
    """Four times the capacity: who is let in keeps the deadline, the rest is refused with a hint.

    How much of the capacity is left for answers, and how many deadlines are kept, depends on the
    machine, which sends the load as well: `make trouble` measures it, here it must not collapse.
    """
    publish("food", loops=30_000)
    found = await trouble.overload(
        ModelStore(tmp_path / "models"), "--max-batch", "1", "--workers", "1",
        seconds=6, deadline_s=1.0, photos=rig.photos(4, size=(60, 40)),
    )  # fmt: skip
    assert {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"} >= set(found["codes"]), found
    assert 0.7 <= found["accepted_that_kept_the_deadline"], found
    assert found["codes"]["RESOURCE_EXHAUSTED"] == found["refusals_with_retry_info"]
    assert found["codes"]["RESOURCE_EXHAUSTED"] > found["codes"]["OK"]
    assert 0.4 <= found["goodput_part"], found
    assert found["refusal_p50_ms"] < 200
    before, most = found["rss_mb"]
    assert most < before + 50
    assert found["first_call_afterwards_ms"] < 2000
    assert 0 == found["exit_code"]


async def test_mutated_images(publish, tmp_path):
    """2,000 damaged images: no INTERNAL, no crash, and each good neighbour gets its own answer."""
    publish("food")
    found = await trouble.fuzz(ModelStore(tmp_path / "models"), images=2000)
    assert {"OK", "3"} == set(found["by_code"])
    assert 0 == found["internal"] == found["wrong_neighbours"] == found["kinds"]["unhandled"]
    assert min(found["by_code"].values()) > 100, "the fuzzer breaks everything, or nothing"
    assert found["longest_call_s"] < 10
    first, _, last = found["rss_mb"]
    assert last < first + 30
    assert 0 == found["exit_code"]
