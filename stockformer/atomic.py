"""Files that are the old one or the new one, whole, whatever moment the power goes at."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Replace `path` by a file that holds `data`.

    Raises OSError naming `path`, which then is as it was.
    The order matters: the new content is on the disk before its name is, and the name is before
    this returns.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # a disk that became read-only keeps it
            temporary.unlink(missing_ok=True)
        raise not_written(path, error) from error


def write_checked(path: Path, data: bytes) -> None:
    """Replace `path` and keep its SHA-256 beside it, in `path`.sha256.

    Between the two replacements that file holds the digests of the old and of the new content, so
    there is no moment at which a whole file looks damaged.
    """
    digest = sha256(data)
    beside = digest_file(path)
    write(beside, _lines(path, [digest, *known_digests(path)]))
    write(path, data)
    write(beside, _lines(path, [digest]))


def read_checked(path: Path) -> bytes:
    """The content `write_checked` left. Raises ValueError where it is another, or unknown."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    digests = known_digests(path)
    if not digests:
        raise ValueError(f"{path}: {digest_file(path).name} is missing, which says what it held")
    if sha256(data) not in digests:
        raise ValueError(f"{path}: damaged or replaced: not what {digest_file(path).name} says")
    return data


def digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def known_digests(path: Path) -> list[str]:
    try:
        words = digest_file(path).read_text("utf-8", errors="replace").split()
    except FileNotFoundError:
        return []
    return words[::2]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk; not where it cannot be."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_written(path: Path, error: OSError) -> OSError:
    """The error with the path in it, which most writes do not name."""
    reason = error.strerror or str(error)
    return OSError(f"{path}: could not be written: {reason}; nothing else was changed")


def _lines(path: Path, digests: list[str]) -> bytes:
    """As sha256sum writes and checks them."""
    return "".join(f"{digest}  {path.name}\n" for digest in digests).encode()
