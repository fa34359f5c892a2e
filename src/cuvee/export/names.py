"""Turn domain names, which are anybody's text, into names that are safe in paths and in code."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_LONGEST = 48
_HEX = 8
RESERVED = frozenset({"all", "merged", "train", "con", "prn", "aux", "nul"})
"""Names that a format, this package or a file system uses otherwise."""


def safe_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return a file name for each name: ASCII letters, digits, ``_`` and ``-`` only.

    A name is kept where it is safe as it stands and unlike every other, small and capital letters
    being alike; otherwise it is cleaned and ends in a digest of the name, so that equal names give
    equal results whatever stands beside them and different names different ones.

    Args:
        names: Different names, of any characters.

    Returns:
        As many different file names, each of 1 to 57 characters.

    Example:
        >>> safe_names(["code", "../etc"])
        ('code', 'etc-f7f9121f')
    """
    times = Counter(name.lower() for name in names)
    return tuple(
        name if _is_safe(name) and times[name.lower()] == 1 else _marked(name) for name in names
    )


def _is_safe(name: str) -> bool:
    return bool(
        0 < len(name) <= _LONGEST
        and not _UNSAFE.search(name)
        and name[0].isalpha()
        and name.lower() not in RESERVED
    )


def _marked(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HEX]
    cleaned = _UNSAFE.sub("_", name).strip("_")[:_LONGEST]
    start = cleaned if cleaned[:1].isalpha() else f"domain_{cleaned}".rstrip("_")
    return f"{start[:_LONGEST]}-{digest}"
