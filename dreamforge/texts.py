"""Figures of a set as people read them."""


def size_text(num_bytes: int) -> str:
    """Return a size for people: ``12.3 MiB``, or KiB if it is less than one."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes:,.1f} MiB" if mebibytes >= 1 else f"{num_bytes / 1024:,.1f} KiB"


def duration_text(hours: float) -> str:
    """Return a duration for people: ``2.50 h``, or seconds if it is less than six minutes."""
    return f"{hours:,.2f} h" if hours >= 0.1 else f"{hours * 3600:.1f} s"


def files_text(num_shards: int) -> str:
    """Return how many files a set has, which is packed without shards."""
    return f"{num_shards} shards" if num_shards else "one file"


def shape_text(channels: int, height: int, width: int) -> str:
    """Return the size of an image: ``32x32, 3 channels``."""
    return f"{height}x{width}, {channels} channel{'s' if channels > 1 else ''}"


def numbers_text(values: list[float]) -> str:
    """Return a mean or a deviation per channel, with its unit."""
    return f"{', '.join(f'{value:.4g}' for value in values)} for pixels in [0, 1]"


def method_text(method: object, steps: object) -> str:
    """Return how images were made; those that were not optimised took no steps."""
    return f"{method}" if steps is None else f"{method}, {steps} steps"
