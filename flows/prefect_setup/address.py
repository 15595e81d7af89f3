"""Which Prefect server is written to, in a line for people to read before anything is."""

import os
from urllib.parse import urlsplit


def said(*, started_here: bool = False) -> str:
    """Return the server's address, who named it, and what else is named and is not used.

    Prefect takes the environment before a file of settings in this folder, and that before its
    profile. A password in an address is left out.

    Args:
        started_here: The caller starts the server, and set PREFECT_API_URL to it.
    """
    # Prefect reads its settings when it is imported.
    from prefect.context import get_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    used = PREFECT_API_URL.value()
    profile = get_settings_context().profile
    of_profile = profile.settings.get(PREFECT_API_URL)
    if not used:
        return (
            f"Prefect: an embedded server, with its records in {PREFECT_HOME.value()};"
            " PREFECT_API_URL names one of your own"
        )
    if started_here:
        source = "started here"
    elif os.environ.get("PREFECT_API_URL"):
        source = "by PREFECT_API_URL"
    elif used == of_profile:
        source = f"by Prefect's profile {profile.name!r}"
    else:
        source = "by a file of Prefect's settings in this folder"
    line = f"Prefect: {_without_password(used)} ({source})"
    if of_profile and of_profile != used:
        line += (
            f"; its profile {profile.name!r} names {_without_password(of_profile)}, which is not"
            " used"
        )
    return line


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
