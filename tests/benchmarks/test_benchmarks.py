"""Every benchmark starts and finishes on small input; its figures are not judged here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from sweeps import slurm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DATA = "DATA"  # stands for the folder of reference data
# Arguments besides --quick, and how the last line printed begins.
SLOW = {
    *("ablation", "candidates", "cluster", "compare", "gpu", "market", "prediction", "report"),
    *("scaling", "sweeps"),
}
"""Those of more than ten seconds: in the long form."""
NEEDED = {"cluster": ("ray", "submitit", "psycopg2")}
SCRIPTS = {
    "ablation": ([DATA], "without the second task"),
    "blocks": ([], "| the whole step"),
    "candidates": ([DATA], "both on validation days too"),
    "cluster": ([], "Slurm, 2 nodes: 4 jobs"),
    "compare": ([], "| step, B=1 N=20"),
    "data": (["--data", DATA], "windows over"),
    "demo": ([], "float32: mean share"),
    "evaluation": ([], "quick"),
    "factors": ([], "80 x 5 x 158"),
    "gpu": (["--device", "cpu"], "a resumed run has the same numbers: yes"),
    "market": ([], "report"),
    "nifty_wf": ([DATA], "ridge"),
    "noise": ([DATA, "2"], "mean, any"),
    "prediction": (["--data", DATA], "stockformer_small: beyond"),
    "report": ([], "sort"),
    "scaling": (["--data", DATA], "   512 machines: "),
    "sweeps": (["--data", DATA], "shared: 2 processes"),
    "weekly": ([], "rank IC better by 0.04"),
}


def test_every_benchmark_is_tested() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    own_test = {"first_screens", "skill", "speed"}
    assert scripts == {*SCRIPTS, *own_test, "variants"}  # the last is shared by two


@pytest.mark.parametrize(
    "script", [pytest.param(s, marks=pytest.mark.full) if s in SLOW else s for s in SCRIPTS]
)
def test_the_quick_form_finishes(
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    arguments, last_line = SCRIPTS[script]
    for module in NEEDED.get(script, ()):
        pytest.importorskip(module)
    if script == "cluster" and not slurm.programs_are_there():
        pytest.skip("no Slurm (apt-get install slurmctld slurmd)")
    if DATA in arguments:
        data = request.getfixturevalue("shared") / "data"  # skips where there is none
        arguments = [str(data) if word == DATA else word for word in arguments]
    monkeypatch.chdir(tmp_path)  # the cache of prepared data is made where one stands
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments, "--quick"])
    importlib.import_module(f"benchmarks.{script}").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(last_line), lines
