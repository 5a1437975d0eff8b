"""Where a file came from: versions, device, command, date."""

import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from shared.errors import ConfigError

PACKAGES = ("dreamforge-recover", "torch", "torchvision", "h5py", "numpy", "safetensors")


def provenance(*, device: str, command: str) -> dict[str, Any]:
    """Return the facts of this process that belong beside a result.

    With ``SOURCE_DATE_EPOCH`` set (reproducible-builds.org) the date is that one, so that the
    same command makes the same bytes.

    Raises:
        ConfigError: If that is no number of seconds.
    """
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a bare checkout
            versions[package] = "not installed"
    return {
        "created": now().isoformat(timespec="seconds"),
        "command": command,
        "device": device,
        "versions": versions,
    }


def is_reproducible_build() -> bool:
    """Return whether durations and dates must be left out (``SOURCE_DATE_EPOCH`` is set)."""
    return bool(os.environ.get("SOURCE_DATE_EPOCH"))


def now() -> datetime:
    """Return the date for provenance: of the clock, or what ``SOURCE_DATE_EPOCH`` says.

    Raises:
        ConfigError: If that is no number of seconds.
    """
    if not is_reproducible_build():
        return datetime.now(UTC)
    text = os.environ["SOURCE_DATE_EPOCH"]
    with suppress(ValueError, OverflowError, OSError):  # beyond the year 9999
        if re.fullmatch(r"[0-9]+", text):
            return datetime.fromtimestamp(int(text), UTC)
    raise ConfigError(
        f"SOURCE_DATE_EPOCH: found {text[:40]!r}, expected whole seconds since 1970, such as "
        "1700000000; correct or unset it"
    )
