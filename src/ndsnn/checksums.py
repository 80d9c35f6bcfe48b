"""Files that carry the SHA-256 of themselves: of all their bytes, with 64 zeros where its digits stand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

BLANK = "0" * 64
"""What stands in place of the digits while their sum is taken."""


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sealed(write: Callable[[str], bytes]) -> bytes:
    """Return the bytes of a file with its own checksum in it.

    Args:
        write: Makes the bytes with given digits in their place; all else is the same each time.
    """
    return write(sha256(write(BLANK)))


def seal_holds(data: bytes, digits: Any) -> bool:
    """Say whether a file is what `sealed` made of it.

    Args:
        data: All bytes of the file.
        digits: The checksum as read from it, of any type.
    """
    if not isinstance(digits, str) or len(digits) != len(BLANK) or not digits.isascii():
        return False
    place, view = data.find(digits.encode()), memoryview(data)
    if place < 0:
        return False
    hasher = hashlib.sha256(view[:place])
    hasher.update(BLANK.encode())
    hasher.update(view[place + len(digits) :])
    return hasher.hexdigest() == digits
