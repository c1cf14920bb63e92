"""What the loop does when a number is not finite, or when memory is short."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from runs.small_run import SmallRuns, captured, train_main
from torch import Tensor, nn

from stockformer.experiment import Experiment
from stockformer.interface import Forecast
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import read_checkpoint, weights
from stockformer.training.memory import is_out_of_memory
from stockformer.training.state import optimizer_state
from stockformer.training.trainer import Trainer

STEPS = 4  # an epoch's
BROKEN = 6  # the step that goes wrong: the second of epoch 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(tmp_path_factory.mktemp("small"))


class Watched:
    """Knows how many steps a run has begun, and its state before and after each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.at_step: Callable[[], None] = lambda: None
        take_step = Trainer.take_step

        def step(trainer: Trainer, batch: Any) -> None:
            if self.begun == BROKEN - 1:
                self.at_step()
            self.before.append(self.state(trainer))
            take_step(trainer, batch)
            self.after.append(self.state(trainer))

        patch.setattr(Trainer, "take_step", step)

    @property
    def begun(self) -> int:
        return len(self.before)

    @staticmethod
    def state(trainer: Trainer) -> dict[str, Tensor]:
        tensors, _ = optimizer_state(trainer.optimizer)
        return {n: t.clone() for n, t in trainer.model.state_dict().items()} | tensors


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def a_linear(experiment: Experiment) -> tuple[str, nn.Linear]:
    *_, found = (
        pair for pair in experiment.model.named_modules() if isinstance(pair[1], nn.Linear)
    )
    return found


def in_an_input_factor(experiment: Experiment, watched: Watched) -> str:
    """On one day, for good: in every batch with a window over that day."""
    windows = copy.copy(experiment.data.windows)
    windows.factors = windows.factors.clone()
    windows.factors[20, 0, 0, 0] = math.nan
    experiment.data = dataclasses.replace(experiment.data, windows=windows)
    return "batch.factors"


def in_a_weight(experiment: Experiment, watched: Watched) -> str:
    name, module = a_linear(experiment)

    def spoil() -> None:
        with torch.no_grad():
            module.weight[0, 0] = math.inf

    watched.at_step = spoil
    return f"weight {name}.weight"


def in_a_modules_output(experiment: Experiment, watched: Watched) -> str:
    name, module = a_linear(experiment)
    module.register_forward_hook(lambda m, i, out: out * math.nan if broken(watched) else out)
    return f"output of {name}"


def in_the_loss(experiment: Experiment, watched: Watched) -> str:
    sums = experiment.loss.sums
    experiment.loss.sums = lambda *a: sums(*a) * (math.nan if broken(watched) else 1)  # type: ignore
    return "loss"


def in_a_gradient(experiment: Experiment, watched: Watched) -> str:
    name, module = a_linear(experiment)
    module.weight.register_hook(lambda g: g * math.inf if broken(watched) else g)
    return f"gradient of {name}.weight"


def in_a_validation_prediction(experiment: Experiment, watched: Watched) -> str:
    def spoil(model: nn.Module, inputs: object, forecast: Forecast) -> Forecast:
        if model.training or watched.begun < BROKEN:
            return forecast
        returns = forecast.returns.clone()
        returns[-1, 0, 0] = math.nan
        return dataclasses.replace(forecast, returns=returns)

    experiment.model.register_forward_hook(spoil)
    return "output of the model"


def broken(watched: Watched) -> bool:
    """From the broken step on: what is done again after it must find it."""
    return watched.begun >= BROKEN


PLACES = [value for name, value in globals().items() if name.startswith("in_a")] + [in_the_loss]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_number_that_is_not_finite_stops_the_run_before_the_step(
    small: SmallRuns,
    watched: Watched,
    tmp_path: Path,
    place: Callable[[Experiment, Watched], str],
) -> None:
    experiment = small.experiment()
    offender = place(experiment, watched)
    with pytest.raises(FloatingPointError) as caught, RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    message = str(caught.value)
    step = watched.begun
    epoch = 1 + (step - 1) // STEPS
    facts = json.loads(run.debug_file.read_text())
    assert f"in epoch {epoch}, " in message
    assert facts["signal_dates"][0] in message
    assert "lower optimizer.lr" in message
    assert f"{offender} is the first that is not finite" in message
    assert facts["not_finite"][0] == offender
    if place is not in_a_validation_prediction:
        assert f"step {(step - 1) % STEPS + 1}, " in message
        assert all(date in message for date in facts["signal_dates"])
        assert same(watched.before[-1], watched.after[-1])
    kept, state = read_checkpoint(run.debug_state_file)
    assert same(weights(kept), {name: watched.after[-1][name] for name in weights(kept)})
    assert state["train_state"]["epoch"] == epoch
    assert run.status()["state"] == "failed"
    if epoch > 1:
        best, facts = read_checkpoint(run.checkpoint("best"))
        assert facts["epoch"] < epoch
        assert all(tensor.isfinite().all() for tensor in best.values())
    else:
        assert not run.checkpoint("best").exists()


def test_a_step_may_be_left_out(small: SmallRuns, watched: Watched, tmp_path: Path) -> None:
    experiment = small.experiment("trainer.on_nonfinite=skip", "trainer.skip_limit=1")
    _, module = a_linear(experiment)
    module.weight.register_hook(lambda g: g * math.nan if watched.begun == BROKEN else g)
    with RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    unchanged = [same(*pair) for pair in zip(watched.before, watched.after)]
    assert unchanged == [number == BROKEN for number in range(1, 3 * STEPS + 1)]
    metrics = pd.read_csv(run.metrics_file)
    assert list(metrics["skipped_steps"]) == [0, 1, 1]
    assert metrics["train_loss"].notna().all()
    assert "step skipped: gradient norm is nan in epoch 2, step 2" in run.log_file.read_text()


def test_no_more_steps_are_left_out_than_the_limit(
    small: SmallRuns, watched: Watched, tmp_path: Path
) -> None:
    experiment = small.experiment("trainer.on_nonfinite=skip", "trainer.skip_limit=2")
    in_the_loss(experiment, watched)
    with pytest.raises(FloatingPointError), RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    assert watched.begun == BROKEN + 2
    assert read_checkpoint(run.debug_state_file)[1]["train_state"]["skipped"] == 3


def test_a_step_nobody_has_looked_at_is_not_passed_over_by_a_signal(
    small: SmallRuns, watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the broken step and the look at it."""
    experiment = small.experiment()
    in_a_gradient(experiment, watched)
    check = Trainer.check

    def interrupted(trainer: Trainer, batches: Any) -> None:
        if broken(watched):
            run.save_on_interrupt()
            raise InterruptedError
        check(trainer, batches)

    monkeypatch.setattr(Trainer, "check", interrupted)
    with pytest.raises(InterruptedError), RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    position = read_checkpoint(run.checkpoint("last"))[1]["train_state"]
    assert (position["epoch"], position["step"], position["skipped"]) == (2, 1, 0)


# Memory

TOO_MUCH = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"


def short_of_memory(
    experiment: Experiment, *, fits: int, training: bool, error: type[RuntimeError] = RuntimeError
) -> None:
    """In training or in evaluation, from `fits` + 1 samples at once; random numbers are drawn."""

    def allocate(model: nn.Module, inputs: tuple[Any], output: object) -> None:
        if model.training is training and len(inputs[0].signal) > fits:
            raise error(TOO_MUCH if error is RuntimeError else "CUDA out of memory")

    experiment.model.register_forward_hook(allocate)


def metrics_of(run: RunDir) -> pd.DataFrame:
    table = pd.read_csv(run.metrics_file)
    return table.drop(columns=["seconds", "samples_per_second", "peak_memory_mib"])


@pytest.fixture(scope="module")
def enough(small: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The metrics of a run without dropout that had memory enough."""
    folder = tmp_path_factory.mktemp("enough") / "run"
    small.run(folder, "model.dropout=0")
    return metrics_of(RunDir(folder))


def require_close(metrics: pd.DataFrame, expected: pd.DataFrame) -> None:
    for column in ("train_loss", "validation_loss", "validation_mae"):
        assert metrics[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-5)


def test_the_allocators_own_words_are_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("training", [True, False])
def test_memory_that_runs_out_is_a_line_of_advice(
    small: SmallRuns, tmp_path: Path, training: bool, error: type[RuntimeError]
) -> None:
    experiment = small.experiment()
    short_of_memory(experiment, fits=0, training=training, error=error)
    with pytest.raises(MemoryError) as caught, RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    assert "lower trainer.micro_batch_size" in str(caught.value)
    assert "\n" not in str(caught.value)
    where = "in epoch 1, step 1 with 16 samples at once" if training else "evaluating 1 samples"
    assert f"out of memory {where}" in str(caught.value)
    assert run.status()["state"] == "failed"


def test_the_optimizers_own_memory_counts_too(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(optimizer: torch.optim.Adam, closure: Any = None) -> None:
        raise RuntimeError(TOO_MUCH)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(MemoryError, match=r"in epoch 1, step 1; lower trainer\.micro_batch_size"):
        small.run(tmp_path / "run")


def test_the_command_ends_with_that_line(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build = Experiment.build_model

    def built(experiment: Experiment) -> Any:
        experiment_model = build(experiment)
        experiment.model = experiment_model[1]
        short_of_memory(experiment, fits=0, training=True)
        return experiment_model

    monkeypatch.setattr(Experiment, "build_model", built)
    status, output = captured(lambda: train_main(small.words()))
    assert status == 1
    assert output.splitlines()[-1].startswith("error: out of memory in epoch 1, step 1")
    assert "Traceback" not in output


def test_a_split_micro_batch_changes_no_result_and_is_recorded(
    small: SmallRuns, enough: pd.DataFrame, tmp_path: Path
) -> None:
    experiment = small.experiment("model.dropout=0", "trainer.oom=split")
    short_of_memory(experiment, fits=5, training=True)
    with RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    metrics = metrics_of(run)
    assert list(metrics["micro_batch_size"]) == [4, 4, 4]
    require_close(metrics, enough)
    assert "continuing with the same batch, 4 samples at once" in run.log_file.read_text()


def test_dropout_is_drawn_anew_for_a_split_batch(small: SmallRuns, tmp_path: Path) -> None:
    """From where the generators were: as if the batch had been split from the start."""
    asked, short = (tmp_path / name for name in ("asked", "short"))
    small.run(asked, "trainer.micro_batch_size=8")
    experiment = small.experiment("trainer.oom=split")
    short_of_memory(experiment, fits=8, training=True)
    with RunDir.claim(short) as run:
        experiment.train(run, [])
    pd.testing.assert_frame_equal(metrics_of(run), metrics_of(RunDir(asked)), check_exact=True)


def test_an_evaluation_is_done_in_halves(
    small: SmallRuns, enough: pd.DataFrame, tmp_path: Path
) -> None:
    experiment = small.experiment("model.dropout=0")
    short_of_memory(experiment, fits=2, training=False)
    with RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    require_close(metrics_of(run), enough)


@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_change_no_result(
    small: SmallRuns, enough: pd.DataFrame, tmp_path: Path, size: int
) -> None:
    small.run(tmp_path / "run", "model.dropout=0", f"trainer.micro_batch_size={size}")
    require_close(metrics_of(RunDir(tmp_path / "run")), enough)


# Determinism


@pytest.fixture
def determinism() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("determinism")
def test_deterministic_algorithms_are_asked_for_and_the_machine_is_recorded(
    small: SmallRuns, tmp_path: Path
) -> None:
    small.experiment()
    assert not torch.are_deterministic_algorithms_enabled()
    small.run(tmp_path / "run", "trainer.deterministic=true", "trainer.max_epoch=1")
    assert torch.are_deterministic_algorithms_enabled()
    manifest = RunDir(tmp_path / "run").read_manifest()
    assert manifest["threads"] == torch.get_num_threads()
    assert manifest["versions"]["torch"] == torch.__version__
    assert {"numpy", "pandas", "python"} < set(manifest["versions"])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the bit, NaN included; what the optimizer has not made yet is nothing."""
    return all(
        tensor.numpy().tobytes() == one.get(name, torch.zeros_like(tensor)).numpy().tobytes()
        for name, tensor in other.items()
    )
