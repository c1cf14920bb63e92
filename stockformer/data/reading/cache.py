"""Preparing a panel once: the first run reads and checks the files, later ones map the result.

A prepared panel is a folder of arrays and one JSON file, named by the SHA-256 of the settings, of
the content of every input file, and of the code that makes it; if one changes, it is prepared
again, from the one prepared last with the same settings and code as far as its prices are the same.
It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from stockformer.data.dataset import NewArray
from stockformer.data.factors.processors import State
from stockformer.data.panel import Panel
from stockformer.data.reading.findings import LEVELS, Finding
from stockformer.runs import atomic
from stockformer.runs.typed_json import Form, parse_json

log = logging.getLogger(__name__)

FACTS, FACTS_SUM = "panel.json", "panel.sha256"
STAMPS = "stamps.json"
STAMP = [int, int, str]  # size, time of change and SHA-256 of a file
SMALL = 8 << 20  # bytes up to which an array is read at once, not mapped
LARGE = 256 << 20  # bytes from which a file with the same size and time is taken to be the same
ALWAYS_SUMMED = 64 << 20  # bytes up to which a stored array's checksum is verified when it is read
DATA = Path(__file__).parents[1]
MAKERS = ("sources", "reading", "factors", "panel.py", "dataset.py", "targets.py")
CODE = [DATA / name for name in MAKERS]  # makes a panel and its processed factors
DOCUMENTS = {".md", ".rst", ".html", ".pdf", ".doc", ".docx", ".xlsx", ".png", ".ipynb", ".pyc"}
ABOUT = ("readme", "license", "licence", "notes")  # names of files that hold no data
ARRAYS = ("dates", "tickers", "returns", "factors", "oracle", "sectors", "member")
ARRAY_FILE = re.compile(rf"({'|'.join(ARRAYS)}|prices-\w+)\.npy", re.ASCII)
KEY = re.compile("[0-9a-f]{32}")
UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError)  # of a damaged folder
STATE = "state-"
PROCESSED_FILE = re.compile(rf"(factors|{STATE}\d+-\w+)\.npy", re.ASCII)
KINDS = {"dates": "M", "tickers": "U", "sectors": "U", "member": "b"}  # the others are numbers
STORED: Form = {
    "factor_names": [str],
    "sources": {str: str},
    "session_gaps": [int],
    "notes": [str],
    "findings": [
        dict.fromkeys(("message", "file", "column", "date", "ticker", "level", "check"), str)
        | {"row": int, "count": int}
    ],
    "files": {str: [(int, str)]},
}

PROCESSED: Form = {"factor_names": [str], "states": [str], "files": {str: [(int, str)]}}
T = TypeVar("T")
FillFactors = Callable[[Panel, np.ndarray, Panel | None], None]


def prepare(
    load: Callable[[], Panel],
    *,
    settings: Mapping[str, Any],
    inputs: Sequence[Path],
    cache: Path,
    factor_names: Sequence[str] = (),
    fill_factors: FillFactors | None = None,
) -> Panel:
    """The panel that `load` reads, from `cache` if the same was prepared before.

    settings: everything the panel depends on besides the files, as plain values. inputs: files and
    folders it is read from. fill_factors(panel, out, earlier): computes the factors `factor_names`
    into out (T, N, F) float32, a memory map; without it they are the source's own. earlier: the
    panel prepared last from other content of the files, if it is still there.

    Arrays are memory-mapped: what is never looked at is never read. Two processes that ask at once
    prepare once. Raises whatever `load` raises, and then leaves nothing behind.
    """
    with _naming_the_cache(cache):
        cache.mkdir(parents=True, exist_ok=True)
    recipe = [
        json.dumps({**settings, "factor_names": list(factor_names)}, sort_keys=True, default=str)
    ]
    recipe += _digests(CODE, cache)
    key = _name([*recipe, *_digests(inputs, cache)])
    newest = cache / f"{_name(recipe)}.newest"

    def write(folder: Path) -> None:
        log.info(
            "preparing the data set for the first time; if it is in order it is kept in %s",
            cache / key,
        )
        panel = load()
        fills = fill_factors is not None  # else nothing is taken from the earlier panel
        with _naming_the_cache(cache), _new_folder(folder) as unfinished:
            earlier = _newest(newest) if fills else None
            _store(panel, unfinished, factor_names, fill_factors, earlier)
        if fills:
            with _naming_the_cache(cache):
                atomic.write(newest, key.encode())

    panel = _prepared(cache / key, _checked, write)
    object.__setattr__(panel, "stored_in", cache / key)  # of no copy with other content
    return panel


def processed(
    make: Callable[[NewArray], tuple[Panel, dict[str, State]]],
    panel: Panel,
    *,
    settings: Any,
    arrays: Sequence[np.ndarray] = (),
) -> tuple[Panel, dict[str, State]]:
    """The factors of `panel` after the processors, and their states, as `make` returns them; where
    the panel is in the cache they are kept and mapped too, so that runs share one copy.

    make(new_array): its factors must be the last array that it has let `new_array` make.
    settings, arrays: everything they depend on besides the panel, as plain values and arrays.
    """
    if panel.stored_in is None:
        return make(np.empty)
    digest = hashlib.sha256(f"{panel.stored_in.name} {json.dumps(settings)}".encode())
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)

    def write(folder: Path) -> None:
        with _new_folder(folder) as unfinished:
            new_array = MappedArrays(unfinished)
            made, states = make(new_array)
            new_array.flush()
            facts = {"factor_names": list(made.factor_names), "states": list(states)}
            _write(unfinished, _arrays_of(states), facts)

    folder = panel.stored_in.parent / digest.hexdigest()[:32]
    try:
        found, facts = _prepared(folder, lambda f: _read(f, PROCESSED, PROCESSED_FILE), write)
    except OSError as error:
        log.warning("the processed factors are not kept, each run makes its own: %s", error)
        return make(np.empty)
    states: dict[str, State] = {
        name: {
            key.removeprefix(f"{STATE}{place}-"): array
            for key, array in found.items()
            if key.startswith(f"{STATE}{place}-")
        }
        for place, name in enumerate(facts["states"])
    }
    return panel.with_factors(found["factors"], tuple(facts["factor_names"])), states


def _arrays_of(states: Mapping[str, State]) -> dict[str, np.ndarray]:
    """The arrays of the processors' states by the names of their files."""
    return {
        f"{STATE}{place}-{key}": array
        for place, state in enumerate(states.values())
        for key, array in state.items()
    }


class MappedArrays:
    """Makes arrays of factors that are maps of a file in `folder`; only the last one is kept."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "factors.npy"
        self.last: np.memmap | None = None

    def __call__(self, shape: tuple[int, ...], dtype: type[np.float32]) -> np.ndarray:
        self.path.unlink(missing_ok=True)  # the array before it stays readable until it is dropped
        self.last = _new_map(self.path, shape, dtype)
        return self.last

    def flush(self) -> None:
        """Writes everything: only then does the file keep its time of change."""
        if self.last is not None:
            self.last.flush()


def scratch_arrays(folder: Path) -> NewArray:
    """Makes arrays that are maps of files without a name: each is gone with the last use of it."""

    def new_array(shape: tuple[int, ...], dtype: type[np.float32]) -> np.ndarray:
        handle, name = tempfile.mkstemp(dir=folder, suffix=".npy")
        os.close(handle)
        try:
            return _new_map(Path(name), shape, dtype)
        finally:
            Path(name).unlink()

    return new_array


def _new_map(path: Path, shape: tuple[int, ...], dtype: type[np.float32]) -> np.memmap:
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    _reserve(path)
    return array


def _prepared(folder: Path, read: Callable[[Path], T], write: Callable[[Path], None]) -> T:
    """What `read` finds in the folder, after `write` if there is none or it is damaged.

    Of two processes that ask at once one writes, and the other waits for it.
    """
    found = _stored(folder, read)
    if found is not None:
        return found
    with _naming_the_cache(folder.parent):
        lock = FileLock(folder.parent / f"{folder.name}.lock", mode=0o666).acquire()
    with lock:
        found = _stored(folder, read)  # another process may have been faster
        if found is None:
            write(folder)
            found = _stored(folder, read)
    if found is None:
        raise OSError(f"{folder}: just prepared, and already damaged: is the disk sound?")
    return found


def _name(parts: Sequence[str]) -> str:
    """What names a folder of the cache."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _digests(paths: Sequence[Path], cache: Path) -> list[str]:
    """Name and SHA-256 of everything at or below `paths`."""
    parts: list[str] = []
    stamps, used = _read_json(cache / STAMPS), {}
    for file in _files(paths):
        if not file.is_file():
            parts.append(str(file))
            continue
        status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        known = stamps.get(str(file), [])
        if status.st_size >= LARGE and known[:2] == stamp:
            digest = known[2]
        else:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        if status.st_size >= LARGE:
            used[str(file)] = [*stamp, digest]
        parts.append(f"{file} {digest}")
    if any(stamps.get(name) != stamp for name, stamp in used.items()):
        _write_json(cache / STAMPS, stamps | used)
    return parts


def _newest(pointer: Path) -> Panel | None:
    """The panel prepared last by the same recipe; None if there is none, or it is damaged."""
    try:
        key = atomic.read(pointer).decode()
        return _checked(pointer.parent / key, whole=True) if KEY.fullmatch(key) else None
    except UNREADABLE:
        return None


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    """Everything at or below `inputs`, in an order that does not change."""
    for path in inputs:
        yield path
        yield from sorted(p for p in path.rglob("*") if not _is_document(p))


def _is_document(path: Path) -> bool:
    return path.suffix.lower() in DOCUMENTS or path.stem.lower() in ABOUT or path.is_dir()


def unread_files(inputs: Sequence[Path], panel: Panel, others: Sequence[Path] = ()) -> list[str]:
    """Files and folders other than those that the panel was read from, e.g. a spreadsheet.

    others: files that something else reads.
    """
    found = []
    for root in filter(Path.is_dir, inputs):
        used = {*inputs, *others, *(root / name for name in panel.sources)}
        folders = {folder for path in used for folder in path.parents}
        for folder in sorted(folders & {root, *(p for p in root.rglob("*") if p.is_dir())}):
            for path in sorted(folder.iterdir()):
                if path not in used | folders and not path.name.startswith("."):
                    found.append(f"{path.relative_to(root)}{'/' * path.is_dir()}")
    return found


def _store(
    panel: Panel,
    folder: Path,
    factor_names: Sequence[str],
    fill_factors: FillFactors | None,
    earlier: Panel | None,
) -> None:
    """Write the panel, with its factors if there are any to fill, and last what describes it."""
    arrays = {name: getattr(panel, name) for name in ARRAYS}
    arrays |= {f"prices-{name}": array for name, array in panel.prices.items()}
    if fill_factors is not None:
        shape = (*panel.returns.shape, len(factor_names))
        new_array = MappedArrays(folder)
        fill_factors(panel, new_array(shape, np.float32), earlier)
        new_array.flush()
        del arrays["factors"]
    facts = {
        "factor_names": list(factor_names if fill_factors is not None else panel.factor_names),
        "sources": dict(panel.sources),
        "session_gaps": list(panel.session_gaps),
        "notes": list(panel.notes),
        "findings": [asdict(finding) for finding in panel.findings],
    }
    _write(folder, arrays, facts)


def _write(folder: Path, arrays: Mapping[str, np.ndarray | None], facts: Mapping[str, Any]) -> None:
    """Write the arrays that are not there yet, and last what describes them, with checksums."""
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
    files = {file.name: _recorded(file) for file in sorted(folder.glob("*.npy"))}
    text = json.dumps({**facts, "files": files}, indent=1)
    (folder / FACTS).write_text(text, "utf-8")
    (folder / FACTS_SUM).write_text(hashlib.sha256(text.encode()).hexdigest())


def _reserve(path: Path) -> None:
    """Allocate a mapped file: where the disk is full, writing to it would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@contextmanager
def _naming_the_cache(cache: Path) -> Iterator[None]:
    """Let errors of writing the cache name its folder and the key that moves it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{cache}: the prepared data set cannot be kept there: {reason}; free space, or name "
            "another folder with paths.cache_dir=FOLDER (it may be deleted at any time)"
        ) from error


def _stored(folder: Path, read: Callable[[Path], T]) -> T | None:
    """What the folder holds; None if there is none, or it is damaged."""
    if not folder.is_dir():
        return None
    try:
        return read(folder)
    except UNREADABLE as error:
        log.warning("the prepared data set %s is damaged (%s): preparing it again", folder, error)
        return None


def _read(
    folder: Path, form: Form, names: re.Pattern[str], whole: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a folder and what describes them. Raises whatever a damaged one makes it raise.

    names: of the files that may be there. whole: verify the content of large arrays too.
    """
    if folder.is_symlink():
        raise ValueError("it is a link")
    atomic.require_plain_files(folder)
    text = atomic.read(folder / FACTS)
    if hashlib.sha256(text).hexdigest().encode() != atomic.read(folder / FACTS_SUM):
        raise ValueError(f"{FACTS} has changed")
    facts = parse_json(text, form, FACTS)
    for name, recorded in facts["files"].items():
        if not names.fullmatch(name):
            raise ValueError(f"{name!r} is no array of a panel")
        if _sum(folder / name, whole) != [recorded[0], recorded[-1 if whole else 1]]:
            raise ValueError(f"{name} has changed")
    return {name.removesuffix(".npy"): _mapped(folder / name) for name in facts["files"]}, facts


def _checked(folder: Path, whole: bool = False) -> Panel:
    """The panel in a folder. Raises whatever one that is damaged or foreign makes it raise.

    whole: as in `_read`; where arrays are copied, or damage would be copied too.
    """
    arrays, facts = _read(folder, STORED, ARRAY_FILE, whole)
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS.get(name, "f"):
            raise ValueError(f"{name} holds {array.dtype}")
    if arrays["dates"].ndim != 1 or arrays["tickers"].ndim != 1:
        raise ValueError("dates or tickers are no lists")
    if not {finding["level"] for finding in facts["findings"]} <= set(LEVELS):
        raise ValueError("findings of no known level")
    if not all(0 <= row < len(arrays["dates"]) for row in facts["session_gaps"]):
        raise ValueError("session_gaps beyond the dates")
    prices = {n.removeprefix("prices-"): a for n, a in arrays.items() if n.startswith("prices-")}
    return Panel(
        dates=arrays["dates"],
        tickers=arrays["tickers"],
        returns=arrays["returns"],
        factors=arrays["factors"],
        factor_names=tuple(facts["factor_names"]),
        prices=prices,
        sources=facts["sources"],
        oracle=arrays.get("oracle"),
        sectors=arrays.get("sectors"),
        member=arrays.get("member"),
        session_gaps=tuple(facts["session_gaps"]),
        notes=tuple(facts["notes"]),
        findings=tuple(Finding(**finding) for finding in facts["findings"]),
    )


def _mapped(path: Path) -> np.ndarray:
    """An array of a file, read as far as it is looked at; writes stay in memory."""
    if path.stat().st_size > SMALL:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    return np.load(path, allow_pickle=False)


def _recorded(path: Path) -> list[Any]:
    """Size and SHA-256; of a file that takes long to read, the time of change between them."""
    large = path.stat().st_size > ALWAYS_SUMMED
    return [*_sum(path), *_sum(path, whole=True)[1:]] if large else _sum(path)


def _sum(path: Path, whole: bool = False) -> list[Any]:
    """Size and SHA-256; unless `whole`, size and time of change of a file that is long to read."""
    size = path.stat().st_size
    if size > ALWAYS_SUMMED and not whole:
        return [size, path.stat().st_mtime_ns]
    with path.open("rb") as content:
        return [size, hashlib.file_digest(content, "sha256").hexdigest()]


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name whole or not at all, in place of what is there."""
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.unfinished-"))
    try:
        yield unfinished
        for path in [*unfinished.iterdir(), unfinished]:
            atomic.sync(path)
        if folder.is_symlink():
            folder.unlink()  # the link, not what it leads to
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        atomic.sync(folder.parent)
    finally:
        # Also what processes left that were killed: nobody else prepares this panel now.
        for rest in folder.parent.glob(f"{folder.name}.unfinished-*"):
            shutil.rmtree(rest, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        stamps: dict[str, Any] = parse_json(atomic.read(path), {str: [(int, str)]}, str(path))
    except (OSError, ValueError):
        return {}
    return {name: stamp for name, stamp in stamps.items() if [*map(type, stamp)] == STAMP}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file by a whole one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).rename(path)
