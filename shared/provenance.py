"""Where a file came from: versions, device, command, date."""

import os
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("dreamforge-recover", "torch", "torchvision", "h5py", "numpy", "safetensors")


def provenance(*, device: str, command: str) -> dict[str, Any]:
    """Return the facts of this process that belong beside a result.

    With ``SOURCE_DATE_EPOCH`` set (reproducible-builds.org) the date is that one, so that the
    same command makes the same bytes.
    """
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a bare checkout
            versions[package] = "not installed"
    return {
        "created": _now().isoformat(timespec="seconds"),
        "command": command,
        "device": device,
        "versions": versions,
    }


def is_reproducible_build() -> bool:
    """Return whether durations and dates must be left out (``SOURCE_DATE_EPOCH`` is set)."""
    return os.environ.get("SOURCE_DATE_EPOCH", "").isdigit()


def _now() -> datetime:
    if is_reproducible_build():
        return datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    return datetime.now(UTC)
