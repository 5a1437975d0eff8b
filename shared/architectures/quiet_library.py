"""transformers without its progress bars and warnings, for as long as a call lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silence(library: Any) -> Iterator[None]:
    """Let the library neither show progress nor warn of a head of another size."""
    logging = library.utils.logging
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()
