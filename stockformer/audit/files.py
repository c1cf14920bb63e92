"""Audits the reading of a source's files for look-ahead, with copies truncated at a date."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from stockformer.config.build import build
from stockformer.data.panel import Panel
from stockformer.data.reading.files import gunzip
from stockformer.data.reading.qlib_fields import FEATURES, FieldNames, field_files
from stockformer.data.reading.qlib_folder import CALENDAR, list_path
from stockformer.data.reading.records import is_parquet, separator, table_suffix
from stockformer.data.sources import qlib


def source_faults(config: DictConfig, row: int) -> Iterator[str]:
    """Differences up to a row between reading the source's files without and with later rows.

    None for a source that reads no files with dates, such as a simulated market.
    """
    source = OmegaConf.to_container(config.dataset.source, resolve=True)
    assert isinstance(source, dict)
    if not ("path" in source or "root" in source) or source.get("timezone"):
        return
    whole: Panel = build(config.dataset.source)
    with tempfile.TemporaryDirectory() as folder:
        settings = cut_files({str(k): v for k, v in source.items()}, whole.dates[row], Path(folder))
        early: Panel = build(OmegaConf.create(settings))
    yield from _differences(early, whole, row)


def cut_files(settings: Mapping[str, Any], last: np.datetime64, folder: Path) -> dict[str, Any]:
    """The source's settings with copies of its files that end on that date."""
    cut: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()
    }
    if "root" in cut:  # every file has a row a date, named by the labels
        cut["root"] = str(_cut_arrays(Path(cut["root"]), cut, last, folder / "root"))
        return cut
    if "instruments" in cut:
        cut["path"] = str(_cut_qlib(Path(cut["path"]), cut, last, folder / "qlib"))
        return cut
    cut["path"] = str(_cut_tree(Path(cut["path"]), cut, last, folder / "data"))
    members = cut["universe"].get("members_path")
    if members:
        target = folder / "members.csv"
        frame = _read(Path(members).read_bytes(), ",")
        start = {str(name).lower(): name for name in frame}["start"]
        frame[_days(frame[start], cut["date_format"]) <= last].to_csv(target, index=False)
        cut["universe"]["members_path"] = str(target)
    return cut


def _cut_tree(path: Path, settings: Mapping[str, Any], last: np.datetime64, into: Path) -> Path:
    if path.is_dir():
        into.mkdir(parents=True)
        for file in sorted(path.iterdir()):
            if file.is_file() and table_suffix(file.name):
                _cut_table(file, settings, last, into / file.name)
        return into
    into.mkdir(parents=True)
    _cut_table(path, settings, last, into / path.name)
    return into / path.name


def _cut_table(file: Path, settings: Mapping[str, Any], last: np.datetime64, into: Path) -> None:
    """Writes no file if the stock has no row yet."""
    wanted = settings["columns"]["date"].lower()
    if is_parquet(file):
        frame = pd.read_parquet(file)
        dates = frame[{str(name).lower(): name for name in frame}[wanted]]
        early = frame[_days(dates, settings["date_format"]) <= last]
        if len(early):
            early.to_parquet(into)
        return
    content = file.read_bytes()
    delimiter = separator(settings["delimiter"])
    plain = gunzip(content, file)
    frame = _read(plain, delimiter)
    dates = frame[{str(name).strip().lower(): name for name in frame}[wanted]]
    early = frame[_days(dates, settings["date_format"]) <= last]
    if len(early):
        text = early.to_csv(index=False, sep=delimiter).encode()
        into.write_bytes(gzip.compress(text) if plain is not content else text)


def _cut_arrays(root: Path, settings: Mapping[str, Any], last: np.datetime64, into: Path) -> Path:
    """The prepared layout: a row a date in arrays, labels and factor files."""
    (into / settings["factors_folder"]).mkdir(parents=True)
    labels = _read((root / settings["labels_file"]).read_bytes(), ",")
    kept = int((pd.to_datetime(labels.iloc[:, 0]) <= pd.Timestamp(last)).sum())
    labels.iloc[:kept].to_csv(into / settings["labels_file"], index=False)
    for name, key in (("returns_file", "returns_key"), ("trend_file", "trend_key")):
        with np.load(root / settings[name], allow_pickle=False) as arrays:
            np.savez(into / settings[name], **{settings[key]: arrays[settings[key]][:kept]})
    listed = Path(settings["factors_folder"]) / settings["factor_list"]
    (into / listed).write_bytes((root / listed).read_bytes())
    for name in (root / listed).read_text().split():
        file = Path(settings["factors_folder"]) / f"{name}.csv"
        _read((root / file).read_bytes(), ",").iloc[:kept].to_csv(into / file, index=False)
    return into


def _cut_qlib(root: Path, settings: Mapping[str, Any], last: np.datetime64, into: Path) -> Path:
    """qlib's layout: sessions, periods that have begun, and the values of those sessions."""
    days = [day for day in (root / CALENDAR).read_text("utf-8-sig").split() if day <= str(last)]
    (into / CALENDAR).parent.mkdir(parents=True)
    (into / CALENDAR).write_text("".join(f"{day}\n" for day in days))
    name = settings["instruments"]
    lines = list_path(root, name).read_text("utf-8-sig").splitlines()
    begun = [line for line in lines if line.strip() and line.split("\t")[1].strip() <= str(last)]
    list_path(into, name).parent.mkdir()
    list_path(into, name).write_text("".join(f"{line}\n" for line in begun))
    (into / FEATURES).mkdir()
    names = FieldNames.of(settings["fields"], qlib.OPTIONAL)
    for file in filter(Path.is_file, field_files(root, name, names)):
        numbers = np.frombuffer(file.read_bytes(), "<f4")
        early = numbers[: max(0, len(days) - int(numbers[0])) + 1]
        if len(early) > 1:
            target = into / file.relative_to(root)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(early.tobytes())
    return into


def _read(content: bytes, delimiter: str) -> pd.DataFrame:
    """Every cell as text, unchanged."""
    return pd.read_csv(
        io.BytesIO(content), sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )


def _days(dates: pd.Series, date_format: str) -> np.ndarray:
    if not pd.api.types.is_datetime64_any_dtype(dates):
        dates = pd.to_datetime(dates.astype(str).str.strip(), format=date_format, errors="coerce")
    return dates.to_numpy("datetime64[D]")


def _differences(early: Panel, whole: Panel, row: int) -> Iterator[str]:
    """Compared by label: stocks that only one has, and the first differing cell of each array."""
    upto = slice(0, row + 1)
    dropped = sorted(set(early.tickers.tolist()) - set(whole.tickers.tolist()))
    if dropped:
        yield (
            f"reading: {', '.join(dropped[:3])} are in the data up to {whole.dates[row]} but not "
            "in the complete data: excluded because of later days"
        )
    known = whole.dates[upto]
    if not np.array_equal(early.dates, known):
        yield f"reading: other dates up to {whole.dates[row]} without the days after it"
        return
    both = [ticker for ticker in whole.tickers.tolist() if ticker in set(early.tickers.tolist())]
    mine, theirs = (pd.Index(p.tickers).get_indexer(pd.Index(both)) for p in (early, whole))
    for name, before, after in _arrays(early, whole):
        a, b = before[:, mine], after[upto][:, theirs]
        if a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            where = np.argwhere(~((a == b) | (np.isnan(a) & np.isnan(b))))[0]
            yield (
                f"reading: {name} of {both[where[1]]} on {known[where[0]]} is "
                f"{a[tuple(where)]} without the days after {whole.dates[row]}, "
                f"{b[tuple(where)]} with them"
            )


def _arrays(early: Panel, whole: Panel) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    yield "the return", early.returns, whole.returns
    for name in whole.prices:
        yield f"{name}", early.prices[name], whole.prices[name]
    for i, name in enumerate(whole.factor_names):
        yield f"factor {name}", early.factors[..., i], whole.factors[..., i]
    if whole.member is not None and early.member is not None:
        yield "membership", early.member, whole.member
