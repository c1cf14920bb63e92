"""Files that are the old one or the new one, whole, whatever moment the power goes at.

No link is ever followed, to be read or to be written: a folder may come from somebody else, and a
link in it could lead to any file of the user's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

MAX_BYTES = 8 << 30  # bytes of a file that is read
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


def write(path: Path, data: bytes) -> None:
    """Replace `path` by a file that holds `data`.

    Raises OSError naming `path`, which then is as it was.
    The order matters: the new content is on the disk before its name is, and the name is before
    this returns. Nobody can know the temporary name, and "x" opens no file or link that is there.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a disk that became read-only keeps it
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise not_written(path, error) from error
        raise


def lock(path: Path) -> int | None:
    """A descriptor that holds the lock of `path` until the process ends; None if another has it.

    Not flock (nor filelock, which uses it): a forked data loader would keep it after its parent's
    death.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise not_written(path, error) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of `path`."""
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "r+b") as file:
            os.lockf(file.fileno(), os.F_TEST, 0)  # does not take it, even for a moment
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def is_temporary(path: Path) -> bool:
    """Whether `write` names its unfinished files so."""
    return TEMPORARY.fullmatch(path.name) is not None


def remove_temporary_files(folder: Path) -> None:
    """Those that processes left which were killed; none may be writing there now."""
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink(missing_ok=True)


def open_file(path: Path) -> io.BufferedReader:
    """A file to be read. Raises ValueError for a link, a pipe, a folder, or one that is too large.

    FileNotFoundError where there is none.
    """
    try:
        # Without O_NONBLOCK a pipe in its place would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        kind = "a link, which is not followed" if path.is_symlink() else error.strerror
        raise ValueError(f"{path}: cannot be read: {kind}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        os.close(descriptor)
        plain = stat.S_ISREG(status.st_mode)
        kind = f"larger than {MAX_BYTES >> 30} GiB" if plain else "not a file"
        raise ValueError(f"{path}: cannot be read: {kind}")
    return os.fdopen(descriptor, "rb")


def read(path: Path, largest: int = MAX_BYTES) -> bytes:
    """The content of a file, as `open_file` opens it, of at most `largest` bytes."""
    with open_file(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"{path}: cannot be read: larger than {largest >> 20} MiB")
    return data


def open_to_append(path: Path) -> int:
    """A descriptor. Raises ValueError where `path` leads to a file that is elsewhere as well."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise ValueError(f"{path}: a link, which is not followed; remove it") from error
        raise not_written(path, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise ValueError(
            f"{path}: has another name elsewhere (a hard link), or is no file; copy the folder"
        )
    return descriptor


def require_plain_files(folder: Path) -> None:
    """Raises ValueError naming a link, a pipe or a device in `folder` or below."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            require_plain_files(Path(entry.path))
        elif not entry.is_file(follow_symlinks=False):
            kind = "a link" if entry.is_symlink() else "neither a file nor a folder"
            raise ValueError(
                f"{entry.path}: {kind}, which no run leaves there; remove it, or copy what it "
                "stands for"
            )


def write_checked(path: Path, data: bytes) -> None:
    """Replace `path` and keep its SHA-256 next to it, in `path`.sha256.

    Between the two replacements that file holds the digests of the old and of the new content, so
    there is no moment at which a whole file looks damaged.
    """
    digest = sha256(data)
    sums = digest_file(path)
    write(sums, sums_text((each, path.name) for each in [digest, *known_digests(path)]).encode())
    write(path, data)
    write(sums, sums_text([(digest, path.name)]).encode())


def read_checked(path: Path) -> bytes:
    """The content of a file that `write_checked` wrote, as it left it.

    Raises ValueError naming the file where it is not, or that cannot be known. A writer may replace
    the file and its digest between two looks at them; as long as the digest changes, both are read
    again.
    """
    seen = None
    while (digests := known_digests(path)) != seen:
        try:
            data = read(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
        if sha256(data) in digests:
            return data
        seen = digests
    if not seen:
        raise ValueError(
            f"{path}: {digest_file(path).name} is missing, so its content cannot be verified"
        )
    raise ValueError(
        f"{path}: damaged or replaced: its digest is not the one in {digest_file(path).name}"
    )


def digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def known_digests(path: Path) -> list[str]:
    try:
        words = read(digest_file(path), largest=1 << 16).decode(errors="replace").split()
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


def sums_text(sums: Iterable[tuple[str, str]]) -> str:
    """Lines of digest and file name, as sha256sum writes and checks them."""
    return "".join(f"{digest}  {name}\n" for digest, name in sums)
