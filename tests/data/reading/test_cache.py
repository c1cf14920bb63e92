"""A panel is prepared once, noticed when it changes, and never half there."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from small_data import PriceFiles, source_settings

from stockformer.config.build import input_paths
from stockformer.data.dataset import NewArray, apply_processors
from stockformer.data.factors import alpha158
from stockformer.data.factors.earlier import extended
from stockformer.data.factors.processors import Fill, Neutralise, RobustZScore, Select, State
from stockformer.data.panel import Panel
from stockformer.data.reading import cache as prepare
from stockformer.data.sources import ohlcv
from stockformer.data.targets import Targets, next_returns

NAMES = ("KMID", "ROC5")


class Prepared:
    """Daily prices, prepared through a cache; `loads` counts how often the files were read."""

    def __init__(self, folder: Path) -> None:
        self.files = PriceFiles(folder / "data")
        self.files.frames["AAA"].loc[5, "Volume"] = 0  # so that there is a finding
        self.files.write()
        members = "".join(f"{ticker},2020-01-01,2023-03-01\n" for ticker in self.files.tickers)
        (folder / "members.csv").write_text("ticker,start,end\n" + members)
        (folder / "sectors.csv").write_text("ticker,sector\nAAA,Oil\nNA,Oil\n")
        self.settings = source_settings(
            "ohlcv",
            path=str(self.files.root),
            universe={
                "members_path": str(folder / "members.csv"),
                "sectors_path": str(folder / "sectors.csv"),
            },
        )
        self.cache = folder / "cache"
        self.log = folder / "loads.txt"
        self.log.touch()

    def load(self) -> Panel:
        with self.log.open("a") as log:
            log.write("loaded\n")
        return ohlcv.load(**self.settings)

    @property
    def loads(self) -> int:
        return self.log.read_text().count("loaded")

    def panel(
        self, names: tuple[str, ...] = NAMES, load: Callable[[], Panel] | None = None
    ) -> Panel:
        return prepare.prepare(
            load or self.load,
            settings=self.settings,
            inputs=ohlcv.input_paths(self.settings),
            cache=self.cache,
            factor_names=names,
            fill_factors=fill,
        )

    def folder(self) -> Path:
        (folder,) = (path for path in self.cache.iterdir() if path.is_dir())
        return folder


def fill(panel: Panel, out: np.ndarray, earlier: Panel | None) -> None:
    names = NAMES[: out.shape[2]]
    if earlier is None or not extended(panel, names, out, earlier):
        alpha158.compute(panel.prices, names, out=out)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def same(one: Panel, other: Panel) -> None:
    for field in fields(Panel):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        elif field.name == "prices":
            assert sorted(mine) == sorted(theirs)
            for name in mine:
                np.testing.assert_array_equal(mine[name], theirs[name])
        elif field.compare:
            assert mine == theirs


def test_the_second_time_the_same_panel_comes_without_reading(prepared: Prepared) -> None:
    source = ohlcv.load(**prepared.settings)
    factors, names = alpha158.compute(source.prices, NAMES)
    for _ in range(3):
        panel = prepared.panel()
        same(panel, source.with_factors(factors, names))
    assert prepared.loads == 1
    assert "zero volume" in {finding.check for finding in panel.findings}
    assert panel.member is not None
    assert panel.sectors is not None


def test_large_arrays_are_mapped_and_writing_to_them_stays_in_memory(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SMALL", 0)
    panel = prepared.panel()
    assert isinstance(panel.factors, np.memmap)
    panel.factors[:] = 0
    assert np.nanmax(np.abs(prepared.panel().factors)) > 0


def test_without_factors_to_fill_the_source_keeps_its_own(prepared: Prepared) -> None:
    for _ in range(2):
        panel = prepare.prepare(
            prepared.load,
            settings=prepared.settings,
            inputs=[prepared.files.root],
            cache=prepared.cache,
        )
        assert panel.factors.shape == (80, 6, 0)
    assert not [*prepared.cache.glob("*.newest")]  # nothing would be taken from it


def change_content(prepared: Prepared) -> None:
    path = prepared.files.path("AAA")
    before = path.stat()
    content = path.read_text()
    last = content.rstrip()[-1]
    path.write_text(content.rstrip()[:-1] + ("1" if last != "1" else "2") + "\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def change_files(prepared: Prepared) -> None:
    prepared.files.path("AAA").rename(prepared.files.path("BBB"))


def change_members(prepared: Prepared) -> None:
    path = Path(prepared.settings["universe"]["members_path"])
    path.write_text(path.read_text() + "TRUE,2023-04-01,\n")


def change_settings(prepared: Prepared) -> None:
    prepared.settings["quality"]["stale_days"] = 7


def delete_the_cache(prepared: Prepared) -> None:
    shutil.rmtree(prepared.cache)


@pytest.mark.parametrize(
    "change",
    [change_content, change_files, change_members, change_settings, delete_the_cache],
    ids=lambda f: f.__name__,
)
def test_a_change_is_noticed(prepared: Prepared, change: Callable[[Prepared], None]) -> None:
    prepared.panel()
    change(prepared)
    for _ in range(2):
        panel = prepared.panel()
        source = ohlcv.load(**prepared.settings)
        same(panel, source.with_factors(*alpha158.compute(source.prices, NAMES)))
    assert prepared.loads == 2


def test_other_factors_are_another_panel(prepared: Prepared) -> None:
    assert prepared.panel().factor_names == NAMES
    assert prepared.panel(NAMES[:1]).factor_names == NAMES[:1]
    assert prepared.loads == 2
    assert prepared.panel().factor_names == NAMES
    assert prepared.loads == 2


def test_a_change_of_the_code_that_reads_is_noticed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "source.py").write_text("1")
    monkeypatch.setattr(prepare, "CODE", [tmp_path / "code"])
    prepared.panel()
    (tmp_path / "code" / "source.py").write_text("2")
    prepared.panel()
    assert prepared.loads == 2


def test_large_files_are_known_by_size_and_time(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "LARGE", 0)
    prepared.panel()
    monkeypatch.setattr(prepare.hashlib, "file_digest", None)  # it would fail if it read them
    prepare._digests([prepared.files.root], prepared.cache)
    os.utime(prepared.files.path("AAA"))
    with pytest.raises(TypeError):
        prepare._digests([prepared.files.root], prepared.cache)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1])),
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "delete": lambda p: p.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["factors.npy", "tickers.npy", "panel.json", "panel.sha256"])
def test_a_damaged_cache_is_made_anew(
    prepared: Prepared, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = prepared.panel()
    DAMAGES[damage](prepared.folder() / name)
    same(prepared.panel(), whole)
    assert prepared.loads == 2
    assert "is damaged" in caplog.text
    same(prepared.panel(), whole)
    assert prepared.loads == 2


def test_a_large_array_that_was_touched_is_made_anew(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "ALWAYS_SUMMED", 0)
    prepared.panel()
    prepared.panel()
    assert prepared.loads == 1
    DAMAGES["flip"](prepared.folder() / "factors.npy")
    prepared.panel()
    assert prepared.loads == 2


def test_what_cannot_be_read_leaves_nothing_behind(prepared: Prepared) -> None:
    prepared.files.frames["AAA"]["Close"] = -1.0
    prepared.files.write()
    with pytest.raises(ValueError, match="price not above 0"):
        prepared.panel()
    assert [path for path in prepared.cache.iterdir() if path.suffix != ".lock"] == []
    with pytest.raises(ValueError, match="none of Alpha158"):
        prepare.prepare(
            lambda: PriceFilesPanel,
            settings={},
            inputs=[],
            cache=prepared.cache,
            factor_names=("X",),
            fill_factors=lambda *_: alpha158.resolve(["X"]),
        )
    assert [path for path in prepared.cache.iterdir() if path.suffix != ".lock"] == []


PriceFilesPanel = Panel(
    dates=np.array(["2024-01-01"], "datetime64[D]"),
    tickers=np.array(["A"]),
    returns=np.zeros((1, 1)),
    factors=np.zeros((1, 1, 0), np.float32),
    factor_names=(),
)


def computed_cells(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Days x stocks of each block whose factors are computed from here on."""
    cells: list[int] = []
    compute = alpha158._block_factors

    def counted(prices: dict[str, np.ndarray], *arguments: object) -> np.ndarray:
        cells.append(prices["close"].size)
        return compute(prices, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(alpha158, "_block_factors", counted)
    return cells


def without_last_days(prepared: Prepared, days: int) -> None:
    for ticker, frame in prepared.files.frames.items():
        prepared.files.frames[ticker] = frame.iloc[:-days]
    prepared.files.write()


def test_new_days_extend_what_is_prepared(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same panel as one that is prepared at once, without computing its days again."""
    whole = {ticker: frame.copy() for ticker, frame in prepared.files.frames.items()}
    without_last_days(prepared, 3)
    prepared.panel()
    prepared.files.frames = whole
    prepared.files.write()
    cells = computed_cells(monkeypatch)
    extended_panel = prepared.panel()
    assert sum(cells) == 6 * (3 + 1 + 5)  # new days, the last one checked, and what ROC5 needs
    shutil.rmtree(prepared.cache)
    same(extended_panel, prepared.panel())


def test_a_stock_whose_history_changed_is_computed_whole(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a dividend, which lowers all earlier adjusted prices."""
    whole = {ticker: frame.copy() for ticker, frame in prepared.files.frames.items()}
    without_last_days(prepared, 3)
    del prepared.files.frames["AAA"]  # listed later
    prepared.files.path("AAA").unlink()
    prepared.panel()
    changed = prepared.files.tickers[1]
    whole[changed][["Open", "High", "Low", "Close"]] *= 0.99
    prepared.files.frames = whole
    prepared.files.write()
    cells = computed_cells(monkeypatch)
    extended_panel = prepared.panel()
    assert sorted(cells)[-1] == 2 * 80
    assert sum(cells) == 2 * 80 + 4 * 9
    shutil.rmtree(prepared.cache)
    same(extended_panel, prepared.panel())


def flip_last_factor(folder: Path) -> None:
    """Another value, with a right checksum: as if an earlier library had computed it."""
    factors = np.load(folder / "factors.npy")
    factors[-1, 0, 1] += 1
    np.save(folder / "factors.npy", factors)
    text = (folder / "panel.json").read_text()
    facts = json.loads(text)
    facts["files"]["factors.npy"] = prepare._recorded(folder / "factors.npy")
    (folder / "panel.json").write_text(json.dumps(facts))
    digest = hashlib.sha256((folder / "panel.json").read_bytes()).hexdigest()
    (folder / "panel.sha256").write_text(digest)


@pytest.mark.parametrize("damage", ["other factors", "array", "pointer", "a path", "gone"])
def test_a_damaged_earlier_panel_is_not_extended(
    damage: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {ticker: frame.copy() for ticker, frame in prepared.files.frames.items()}
    without_last_days(prepared, 3)
    prepared.panel()
    (pointer,) = prepared.cache.glob("*.newest")
    match damage:
        case "other factors":
            flip_last_factor(prepared.folder())
        case "array":
            DAMAGES["flip"](prepared.folder() / "factors.npy")
        case "pointer":
            pointer.write_bytes(b"\xff")
        case "a path":
            pointer.write_text("../" + prepared.folder().name)
        case "gone":
            shutil.rmtree(prepared.folder())
    prepared.files.frames = whole
    prepared.files.write()
    cells = computed_cells(monkeypatch)
    panel = prepared.panel()
    assert 6 * 80 in cells
    shutil.rmtree(prepared.cache)
    same(panel, prepared.panel())


def test_a_large_array_that_decayed_on_the_disk_is_not_copied(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its size and time: such a file is mapped as it is, but is no source of others."""
    monkeypatch.setattr(prepare, "ALWAYS_SUMMED", 0)
    whole = {ticker: frame.copy() for ticker, frame in prepared.files.frames.items()}
    without_last_days(prepared, 3)
    prepared.panel()
    file = prepared.folder() / "factors.npy"
    status, factors = file.stat(), np.load(file)
    factors[40, 0, 1] += 1
    np.save(file, factors)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    prepared.files.frames = whole
    prepared.files.write()
    panel = prepared.panel()
    shutil.rmtree(prepared.cache)
    same(panel, prepared.panel())


def test_processes_that_ask_at_once_prepare_once(prepared: Prepared) -> None:
    def slowly() -> Panel:
        panel = prepared.load()
        time.sleep(0.3)
        return panel

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=lambda: prepared.panel(load=slowly)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert prepared.loads == 1


@pytest.mark.parametrize("moment", ["load", "fill"])
def test_a_process_that_is_killed_leaves_no_lock_and_no_half_panel(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def die(*_: object, **__: object) -> Panel:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def doomed() -> None:
        if moment == "fill":
            monkeypatch.setattr(alpha158, "compute", die)
            prepared.panel()
        prepared.panel(load=die)

    process = multiprocessing.get_context("fork").Process(target=doomed)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert prepared.panel().factor_names == NAMES
    assert [p for p in prepared.cache.iterdir() if "unfinished" in p.name] == []


def test_a_source_declares_the_files_it_reads(tmp_path: Path) -> None:
    """Guessed from the names of keys, `folder:` was taken for a simulated market."""
    lists = {"sectors_path": "", "sectors_ticker": "", "sectors_column": "", "members_path": "c"}
    assert ohlcv.input_paths({"path": "a", "universe": lists}) == [Path("a"), Path("c")]
    source = OmegaConf.create({"_target_": "stockformer.data.sources.demo.load"})
    assert input_paths(source, {}) == []
    silent = OmegaConf.create({"_target_": "stockformer.data.splits.by_ratio"})
    with pytest.raises(ValueError, match="a source must declare the files it reads"):
        input_paths(silent, {})


@pytest.mark.parametrize("place", ["a file is there", "the disk is full"])
def test_a_cache_that_cannot_be_kept_says_where_and_what_to_do(
    place: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not kill the process, as writing to a map of a file would."""
    if place == "a file is there":
        prepared.cache.write_text("")
    else:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"cannot be kept there.*paths\.cache_dir=FOLDER") as caught:
        prepare.prepare(
            prepared.load,
            settings=prepared.settings,
            inputs=[prepared.files.root],
            cache=prepared.cache,
            factor_names=["KMID"],
            fill_factors=lambda *_: None,
        )
    assert str(caught.value).startswith(str(prepared.cache))
    if prepared.cache.is_dir():
        assert [path.suffix for path in prepared.cache.iterdir()] == [".lock"]


def targets_of(panel: Panel) -> Targets:
    return next_returns(
        panel, horizon=1, offset=0, excess=False, median_class=False, limit_threshold=0.04
    )


PIPELINES = {
    "stateless": {"neutral": Neutralise(sector=True, size=False), "fill": Fill(forward=True)},
    "fitted": {"robust": RobustZScore(clip=3.0), "fill": Fill(forward=False)},
    "chosen": {"select": Select(names=["ROC5"], count=1)},
}


@pytest.mark.parametrize("name", PIPELINES)
def test_processed_factors_are_made_once_and_are_the_same_to_the_bit(
    prepared: Prepared, name: str, tmp_path: Path
) -> None:
    panel = prepared.panel(NAMES)
    targets = targets_of(panel)
    made = []

    def process(new_array: NewArray = np.empty, rows: int = 20) -> tuple[Panel, dict[str, State]]:
        made.append(rows)
        pipeline = PIPELINES[name]
        return apply_processors(panel, pipeline, targets, slice(0, rows), new_array=new_array)

    def cached(rows: int = 20) -> tuple[Panel, dict[str, State]]:
        settings = {"name": name, "rows": rows}
        return prepare.processed(
            partial(process, rows=rows), panel, settings=settings, arrays=targets.arrays()
        )

    expected, states = process()
    for _ in range(2):
        found, kept = cached()
        same(found, expected)
        assert kept.keys() == states.keys()
        for key, state in states.items():
            assert kept[key].keys() == state.keys()
            for array in state:
                assert kept[key][array].dtype == state[array].dtype
                np.testing.assert_array_equal(kept[key][array], state[array])
    assert made == [20, 20]  # ours, and the first of the two
    cached(30)
    assert made == [20, 20, 30]
    assert found.stored_in is None
    changed = replace(panel, returns=panel.returns + 1)
    prepare.processed(process, changed, settings={"name": name, "rows": 20})
    assert made == [20, 20, 30, 20]  # a copy with other content is never taken from the cache


def test_damaged_processed_factors_are_made_anew(prepared: Prepared) -> None:
    panel = prepared.panel(NAMES)
    made = []

    def process(new_array: NewArray) -> tuple[Panel, dict[str, State]]:
        made.append(1)
        fill = {"fill": Fill(forward=False)}
        return apply_processors(panel, fill, targets_of(panel), slice(0, 20), new_array=new_array)

    expected, _ = prepare.processed(process, panel, settings=[])
    folders = {path.parent for path in prepared.cache.glob("*/factors.npy")} - {panel.stored_in}
    (folder,) = folders
    data = bytearray((folder / "factors.npy").read_bytes())
    data[-2] ^= 1
    (folder / "factors.npy").write_bytes(data)
    found, _ = prepare.processed(process, panel, settings=[])
    same(found, expected)
    assert len(made) == 2


def test_runs_go_on_where_processed_factors_cannot_be_kept(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    panel = prepared.panel(NAMES)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "_write", full)
    processed, _ = prepare.processed(lambda _: (panel, {}), panel, settings=[])
    assert processed is panel
    assert "not kept, each run makes its own: [Errno 28] No space left" in caplog.text
    assert not list(prepared.cache.glob("*unfinished*"))
