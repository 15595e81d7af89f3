"""One night a night, also when clocks are set; Prefect's own scheduler computes the times."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from flows.prefect_setup.deploy import deploy
from terminal import UserError
from tests.paths import ROOT

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
SCHEDULES = {each["name"]: each["schedules"] for each in DEPLOYMENTS if "schedules" in each}
# Clocks go forward at 02:00 in New York and Berlin, at 00:00 in Beirut, and by half an hour on
# Lord Howe.
ZONES = ("Asia/Seoul", "Europe/Berlin", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe")


def dates(cron: str, zone: str) -> list[datetime]:
    """Return when a schedule runs in 2026, in its own time.

    As the server asks: twice a day for the next ones, each time anew.
    """
    schedule = CronSchedule(cron=cron, timezone=zone)
    begin = datetime(2025, 12, 31, 9, tzinfo=UTC)

    async def found() -> set[datetime]:
        asked = [begin + timedelta(hours=12 * number) for number in range(2 * 366)]
        # Instants, not times of a clock, which are one where an hour comes twice.
        return {each.astimezone(UTC) for now in asked
                for each in await schedule.get_dates(n=3, start=now)}  # fmt: skip

    local = (each.astimezone(ZoneInfo(zone)) for each in sorted(asyncio.run(found())))
    return [each for each in local if each.year == 2026]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", ["pipeline", "prune"])
def test_each_day_has_one_night(name, zone):
    """Neither two nor none on the days that have 23, 24 and a half, or 25 hours."""
    (schedule,) = SCHEDULES[name]
    assert "{{ $HANSANG_TIMEZONE }}" == schedule["timezone"]
    nights = Counter(each.date() for each in dates(schedule["cron"], zone))
    assert (365, {1}) == (len(nights), set(nights.values()))


def test_every_schedule_says_its_time_zone():
    """Without one Prefect takes UTC in silence; what is hourly needs the hours of UTC."""
    assert {"pipeline", "prune", "drift"} == SCHEDULES.keys()
    assert "Etc/UTC" == SCHEDULES["drift"][0]["timezone"]
    assert all("timezone" in each for found in SCHEDULES.values() for each in found)


def test_a_time_zone_that_is_none_is_refused_before_anything_is_asked():
    """A sentence with what was given and an example."""
    with pytest.raises(UserError, match="--timezone Seoul: no such time zone; give one such as"):
        deploy(home=Path(), timezone="Seoul")
