"""Weights of models on the hub, by huggingface_hub's own code: safetensors alone, size asked first.

Its settings are its environment's: HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE, HF_HOME.
"""

import re
from pathlib import Path

from training.errors import ConfigError

PREFIXES = ("hf-hub:", "timm:")
_FILE = "model.safetensors"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
_TIMEOUT_S = 10.0


def download(source: str, *, most_bytes: int) -> Path:
    """Return where the weights of `hf-hub:OWNER/NAME[@REVISION]` or `timm:NAME` lie here.

    Raises:
        ConfigError: That is no name, the hub has no such weights, or it cannot be reached.
    """
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import HfHubHTTPError

    prefix, _, name = source.partition(":")
    if prefix == "timm":
        name = f"timm/{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{source} names no model of the hub; write hf-hub:OWNER/NAME")
    name, _, revision = name.partition("@")
    kept = try_to_load_from_cache(name, _FILE, revision=revision or None)
    try:
        url = hf_hub_url(name, _FILE, revision=revision or None)
        size = get_hf_file_metadata(url, timeout=_TIMEOUT_S).size
        if size is None or size > most_bytes:
            raise ConfigError(f"{source} has {size} bytes of weights: no ResNet18")
        return Path(hf_hub_download(name, _FILE, revision=revision or None))
    except HfHubHTTPError as error:
        raise ConfigError(
            f"the hub gives no {_FILE} of {name} ({_said(error)}); a private model needs HF_TOKEN"
        ) from error
    except ConfigError:
        raise
    except Exception as error:  # of whatever client the hub's own code has below it
        if isinstance(kept, str):
            return Path(kept)
        raise ConfigError(
            f"the hub cannot be reached ({_said(error)}), and {name} was not downloaded before;"
            f" without a connection give its {_FILE} itself: --from FILE.safetensors"
        ) from error


def _said(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
