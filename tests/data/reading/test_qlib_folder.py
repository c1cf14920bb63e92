"""Every class of damage to a folder in qlib's layout is refused, or listed, by name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_data import PriceFiles, QlibFiles, source_settings

from stockformer.data.panel import Panel
from stockformer.data.sources import qlib

Break = Callable[[QlibFiles], str]
INSTRUMENTS = "dataset.source.instruments"


@pytest.fixture
def files(tmp_path: Path) -> QlibFiles:
    return QlibFiles(tmp_path / "data", PriceFiles(tmp_path / "csv"))


def read(files: QlibFiles, **changes: object) -> Panel:
    return qlib.load(**source_settings("qlib", path=str(files.root), **changes))


def of_calendar(line: int, text: str) -> Callable[[QlibFiles], None]:
    """Replace a line of the calendar, counted from 1."""

    def change(files: QlibFiles) -> None:
        lines = files.calendar.read_text().split("\n")
        lines[line - 1] = text
        files.calendar.write_text("\n".join(lines))

    return change


def of_list(*periods: tuple[str, str, str]) -> Callable[[QlibFiles], None]:
    """Replace the last periods of the list."""

    def change(files: QlibFiles) -> None:
        files.periods[-len(periods) :] = periods
        files.write_list()

    return change


def of_field(change: Callable[[bytes], bytes], field: str = "close") -> Callable[[QlibFiles], None]:
    """Change the bytes of a field of AAA."""

    def write(files: QlibFiles) -> None:
        path = files.path("AAA", field)
        path.write_bytes(change(path.read_bytes()))

    return write


def starting(first: float) -> Callable[[QlibFiles], None]:
    return of_field(lambda content: np.float32(first).tobytes() + content[4:])


def with_value(row: int, value: float, field: str = "close") -> Callable[[QlibFiles], None]:
    def change(content: bytes) -> bytes:
        numbers = np.frombuffer(content, "<f4").copy()
        numbers[row + 1] = value
        return numbers.tobytes()

    return of_field(change, field)


def as_archive(files: QlibFiles) -> None:
    shutil.make_archive(str(files.root.with_name("packed")), "zip", files.root)
    shutil.rmtree(files.root)
    files.root.with_name("packed.zip").rename(files.root)


def nested(files: QlibFiles) -> None:
    files.root.rename(files.root.with_name("inner"))
    files.root.mkdir()
    files.root.with_name("inner").rename(files.root / "cn_data")


def only_minutes(files: QlibFiles) -> None:
    for path in [files.calendar, *files.root.glob("features/*/*.bin")]:
        path.rename(path.with_name(path.name.replace("day", "1min")))


def minutes_of_one_stock(files: QlibFiles) -> None:
    for path in files.path("AAA", "close").parent.iterdir():
        path.rename(path.with_name(path.name.replace("day", "1min")))


def no_list(files: QlibFiles) -> None:
    files.write_list("csi300")
    files.write_list("all").unlink()


def outward_link(files: QlibFiles) -> None:
    path = files.path("AAA", "close")
    path.rename(files.data_dir / "elsewhere.bin")
    path.symlink_to(files.data_dir / "elsewhere.bin")


def outward_folder(files: QlibFiles) -> None:
    folder = files.path("AAA", "close").parent
    folder.rename(files.data_dir / "elsewhere")
    folder.symlink_to(files.data_dir / "elsewhere")


def dangling_link(files: QlibFiles) -> None:
    files.path("AAA", "close").unlink()
    files.path("AAA", "close").symlink_to("nothing.bin")


def another_folder(files: QlibFiles) -> None:
    shutil.copytree(files.root / "features/aaa", files.root / "features/AAA")


def a_path_as_ticker(files: QlibFiles) -> None:
    files.periods.append(("../../x", "2023-01-02", "2023-04-21"))
    files.write_list()


def unadjusted(files: QlibFiles) -> None:
    """Splits of 2 for 1 on different days, in the factor and in prices that stay raw."""
    for i, (ticker, _, _) in enumerate(files.periods):
        split = np.where(np.arange(80) < 20 + i, 1.0, 2.0)
        files.write(ticker, "factor", split)
        for field in ("open", "high", "low", "close"):
            files.write(ticker, field, files.values(ticker, field) / split)


REFUSED: dict[str, tuple[Callable[[QlibFiles], object], str]] = {
    "no folder": (lambda f: shutil.rmtree(f.root), "data folder not found: .*qlib "),
    "an archive": (as_archive, "qlib: a file, expected a folder; unpack an archive first"),
    "a folder above": (nested, "no calendars/day.txt: name a folder in it: cn_data"),
    "another folder": (
        lambda f: shutil.rmtree(f.root / "calendars"),
        "no calendars/day.txt: not a folder of qlib's data; it holds features, instruments",
    ),
    "minutes": (only_minutes, "no calendars/day.txt: only 1min.txt; daily data are needed"),
    "minutes of a stock": (
        minutes_of_one_stock,
        "aaa: no close.day.bin .*there are only minute data; for AAA",
    ),
    "no features": (
        lambda f: shutil.rmtree(f.root / "features"),
        "features: cannot be read: No such file",
    ),
    "empty calendar": (lambda f: f.calendar.write_text("\n"), "day.txt: the file is empty"),
    "calendar cut": (
        lambda f: f.calendar.write_text(f.calendar.read_text()[:-1]),
        r"day.txt: the last line has no end: truncated file.*row 80",
    ),
    "calendar not text": (lambda f: f.calendar.write_bytes(b"\xff\xfe1"), "day.txt: UTF-16 text"),
    "calendar a pointer": (
        lambda f: f.calendar.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "day.txt: a Git LFS pointer instead of the data, which `git lfs pull` fetches",
    ),
    "no date": (
        of_calendar(3, "2023-02-30"),
        r"\(1 finding\):\n.*'2023-02-30' is not a date .*\(row 3\)",
    ),
    "a minute": (of_calendar(3, "2023-01-04 09:31:00"), r"'2023-01-04 09:31:00' is not a date"),
    "a duplicate": (of_calendar(3, "2023-01-03"), r"'2023-01-03' is there twice \(row 3\)"),
    "not in order": (of_calendar(3, "2022-01-03"), r"'2022-01-03' is before the line above.*row 3"),
    "the future": (of_calendar(80, "2190-01-03"), r"'2190-01-03' is in the future \(row 80\)"),
    "long ago": (of_calendar(1, "1799-01-03"), r"'1799-01-03' is before 1900-01-01 \(row 1\)"),
    "no list": (no_list, rf"all.txt: no such list \({INSTRUMENTS}=all\); there are csi300"),
    "empty list": (lambda f: f.write_list().write_text(""), "all.txt: .*empty"),
    "list with commas": (
        lambda f: f.write_list().write_text("AAA,2023-01-02,2023-04-21\n"),
        r"separated by tabs, not 'AAA,2023-01-02,2023-04-21' \(row 1\)",
    ),
    "no start": (of_list(("TRUE", "", "2023-04-21")), r"'' is not a date .*for TRUE \(row 6\)"),
    "no end": (of_list(("TRUE", "2023-01-02", "x")), r"'x' is not a date .*for TRUE \(row 6\)"),
    "backward": (
        of_list(("TRUE", "2023-04-21", "2023-01-02")),
        r"the end is before the start, on 2023-04-21 for TRUE \(row 6\)",
    ),
    "overlap": (
        of_list(("TRUE", "2023-02-01", "2023-04-21"), ("TRUE", "2023-01-02", "2023-02-01")),
        r"overlaps another period of the stock on 2023-02-01 for TRUE \(row 5\)",
    ),
    "a path as ticker": (a_path_as_ticker, "'../../x' is not a ticker: a path"),
    "tickers alike": (
        of_list(("aaa", "2023-01-02", "2023-04-21")),
        "'AAA' and 'aaa' differ only by case",
    ),
    "other days": (
        lambda f: f.write_list().write_text("AAA\t2010-01-02\t2012-04-21\n"),
        "no stock is a member between 2023-01-02 and 2023-04-21",
    ),
    "other names": (
        lambda f: f.write_list().write_text("SH60\t2023-01-02\t2023-04-21\n"),
        "all.txt has a close while it is a member: other names",
    ),
    "folder twice": (another_folder, "AAA: AAA, aaa differ only by case for AAA"),
    "missing field": (
        lambda f: f.path("AAA", "close").unlink(),
        r"aaa: no close.day.bin \(dataset.source.fields.close\); there are factor, high, low, open",
    ),
    "empty file": (of_field(lambda _: b""), "aaa/close.day.bin: the file is empty for AAA"),
    "only a start": (of_field(lambda c: c[:4]), "aaa/close.day.bin: holds no value for AAA"),
    "cut in a number": (of_field(lambda c: c[:-1]), "close.day.bin: 323 bytes, no multiple of 4"),
    "a pointer": (
        of_field(lambda _: b"version https://git-lfs.github.com/spec/v1\noid x"),
        "aaa/close.day.bin: a Git LFS pointer instead of the data, .* for AAA",
    ),
    "negative start": (starting(-1), "close.day.bin: begins with -1, which is no position"),
    "half start": (starting(0.5), "close.day.bin: begins with 0.5, which is no position"),
    "no start of values": (starting(np.nan), "close.day.bin: begins with nan, which is no"),
    "infinite start": (starting(np.inf), "close.day.bin: begins with inf, which is no position"),
    "late start": (starting(80), "begins with 80, which is no position in the calendar of 80"),
    "start moved": (starting(3), "has 3 values after the last session of the calendar, 2023-04-21"),
    "big-endian": (
        of_field(lambda c: b"".join(c[i : i + 4][::-1] for i in range(0, len(c), 4)), "open"),
        r"features/aaa: a price above 1e\+15: .*for AAA \(column open\)",
    ),
    "double precision": (
        of_field(lambda c: np.frombuffer(c, "<f4").astype("<f8").tobytes()),
        "has 81 values after the last session",
    ),
    "infinity": (
        with_value(4, np.inf),
        r"\(1 finding\):\n.*aaa/close.day.bin: infinite value on 2023-01-06 for AAA",
    ),
    "no positive price": (
        with_value(4, 0.0),
        r"features/aaa: price not above 0 on 2023-01-06 for AAA \(column close\)",
    ),
    "close outside": (with_value(4, 1.0), "close is outside low and high on 2023-01-06 for AAA"),
    "negative volume": (
        with_value(4, -1.0, "volume"),
        "negative volume on 2023-01-06 for AAA",
    ),
    "unadjusted": (
        unadjusted,
        "the close moves by the inverse of the factor on 6 of the 6 days.* 2023-01-30 for 000001",
    ),
    "link out of the folder": (outward_link, "aaa/close.day.bin: leads out of .*for AAA"),
    "folder out of the folder": (outward_folder, "features/aaa: leads out of .* for AAA"),
    "dangling link": (dangling_link, "aaa/close.day.bin: a link to nothing.bin, which does not"),
    "a pipe": (
        lambda f: (f.path("AAA", "close").unlink(), os.mkfifo(f.path("AAA", "close"))),
        "aaa/close.day.bin: file not found, or not a file",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_refused_by_name(files: QlibFiles, name: str) -> None:
    damage, message = REFUSED[name]
    read(files)
    damage(files)
    with pytest.raises(ValueError, match=message):
        read(files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruments": "../all"}, rf"{INSTRUMENTS}='../all': not the name of a list"),
        ({"instruments": ""}, rf"{INSTRUMENTS}='': not the name of a list"),
        ({"start": "1.2.2023"}, "dataset.source.start='1.2.2023': not a date"),
        ({"start": "2024-01-01"}, "start=2024-01-01 .*no session between them; the calendar is"),
        ({"fields": {"close": ""}}, "dataset.source.fields.close='' names no field, but is req"),
        ({"fields": {"close": "a/b"}}, "dataset.source.fields.close='a/b': not the name of a fi"),
        ({"fields": {"close": "Open"}}, r"dataset.source.fields: \['open'\] stand for two fields"),
        ({"fields": {"vwap": "vwap"}}, r"aaa: no vwap.day.bin \(dataset.source.fields.vwap\)"),
    ],
)
def test_a_setting_is_refused_by_name(
    files: QlibFiles, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(files, **changes)


def test_all_errors_are_reported_at_once(files: QlibFiles) -> None:
    files.path("AAA", "close").write_bytes(b"")
    files.path("NA", "open").unlink()
    with_value(4, np.inf, "high")(files)
    with pytest.raises(ValueError, match="refused") as refusal:
        read(files)
    for place in ("aaa/close.day.bin", "na: no open.day.bin", "aaa/high.day.bin: infinite value"):
        assert re.search(place, str(refusal.value))


def test_a_folder_that_may_not_be_read_is_named(
    files: QlibFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "aaa":
            raise PermissionError(13, "Permission denied")
        return clean(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match="features/aaa: cannot be read: Permission denied for AAA"):
        read(files)
