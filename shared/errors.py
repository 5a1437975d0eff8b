"""The errors that a user can cause, each with the exit code that the command line returns.

A message is one line: what was found, what was expected, what to do.
"""


class DreamforgeError(Exception):
    """Base of all errors that end a command with one line instead of a traceback."""

    exit_code = 1


class ConfigError(DreamforgeError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2


class CheckpointError(DreamforgeError):
    """A teacher or student file that cannot be used: wrong, truncated, unsafe, no BatchNorm."""

    exit_code = 3


class DreamSetError(DreamforgeError):
    """A dream set (index or shard) that is damaged, incomplete, hostile or of another version."""

    exit_code = 3


class FormatVersionError(DreamSetError):
    """A dream set of a format that this version of the software does not know."""


class InputFileError(DreamforgeError):
    """Any other input file that cannot be used: evaluation images, configuration."""

    exit_code = 3


class IncompatibleError(DreamforgeError):
    """Inputs that are fine alone but do not belong together: another teacher, changed arguments."""

    exit_code = 4


class ShortageError(DreamforgeError):
    """Room or memory is short: once there is more, the same command may do."""


class MemoryShortageError(InputFileError, ShortageError):
    """Too little memory for what is to be read."""


class InterruptedRunError(DreamforgeError):
    """A run that was stopped from outside; the message holds the command that resumes it."""

    exit_code = 130


class SpokenForError(DreamforgeError):
    """Another process of the same run has already said why it ended: this one says nothing."""

    def __init__(self, error: BaseException) -> None:
        """Keep the exit code of what happened here."""
        super().__init__(str(error))
        interrupted = isinstance(error, KeyboardInterrupt)
        self.exit_code = 130 if interrupted else getattr(error, "exit_code", 1)


class OutOfMemoryError(DreamforgeError):
    """The device has too little memory for a batch; smaller batches may fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell by name: torch is not imported here, and its CPU allocator has no class of its own."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
