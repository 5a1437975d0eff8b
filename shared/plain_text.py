"""Words that may come from a stranger's file, as they are shown on a terminal."""

import unicodedata


def plain(text: str) -> str:
    """Return text with ``?`` for all but line ends that is not to be seen, or no text at all.

    Names and words may come from a file: terminal escapes, directional marks, lone surrogates.
    Spaces of all widths, and what joins letters, are part of names.
    """
    return "".join(char if char.isprintable() or _is_of_names(char) else "?" for char in text)


def _is_of_names(char: str) -> bool:
    return char in "\n\u200c\u200d" or unicodedata.category(char) == "Zs"
