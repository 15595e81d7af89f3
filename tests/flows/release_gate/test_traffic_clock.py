"""Looks at the traffic while clocks jump: what is yet to come is forgotten, what was is not."""

from flows.release_gate import traffic


def test_scrapes_of_the_future_are_forgotten(tmp_path):
    """A clock that was set back leaves some behind; they would hide all that comes."""
    early, late = ({"time_s": at, "started_s": 1.0, "version": 1} for at in (1000.0, 9000.0))
    traffic.remember(tmp_path, [late])
    assert [early] == traffic.remember(tmp_path, [early])


def test_a_clock_that_is_ahead_for_a_while_costs_nothing(tmp_path):
    """A month ahead for two looks, and back: they are forgotten, and those before are not."""
    month_s, day_s = 30 * 86400.0, 86400.0
    looks = [{"time_s": at, "started_s": 1.0, "version": 1} for at in (1e6, 1e6 + 3600)]
    for at in (*looks, *({**each, "time_s": each["time_s"] + month_s} for each in looks)):
        traffic.remember(tmp_path, [at])

    now = {"time_s": 1e6 + 7200, "started_s": 1.0, "version": 1}
    assert [*looks, now] == traffic.remember(tmp_path, [now])
    for number in range(300):
        kept = traffic.remember(tmp_path, [{**now, "time_s": 1e6 + (number + 1) * day_s}])
    assert 201 == len(kept)
