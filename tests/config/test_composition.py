"""A configuration is composed of conf/ alone, and nothing of it can run what it names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from runs.small_run import captured, train_main

from stockformer.commands import command as cli
from stockformer.config import composition
from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.overrides import check_command_line
from stockformer.config.schema import config_folder

# What a file may not set, whoever chose it: contents of one that any of the words below would load.
ENVIRONMENT = "hydra:\n  job:\n    env_set:\n      PATH: TMP/bin\n"
CONTENTS = {
    "env_set": ENVIRONMENT,
    "env_copy": "hydra: {job: {env_copy: [HOME]}}",
    "job name": "hydra: {job: {name: other}}",
    "directory name": "hydra: {job: {config: {override_dirname: {kv_sep: /}}}}",
    "log to a file": (
        "hydra: {job_logging: {root: {handlers: [x]}, handlers: {x: {class: logging.FileHandler, "
        "mode: w, filename: TMP/victim}}}}"
    ),
    "log calls": "hydra: {job_logging: {handlers: {x: {(): os.mkdir, path: TMP/canary}}}}",
    "other log calls": "hydra: {hydra_logging: {handlers: {x: {(): os.mkdir, path: TMP/canary}}}}",
    "tags by reference": "tags: ['${oc.env:HOME}']",
    "log by reference": "hydra: {job_logging: '${tags}'}",
    "callbacks": "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfo}}}",
    "a callback calls": "hydra: {callbacks: {x: {_target_: os.mkdir, path: TMP/canary}}}",
    "launcher": "hydra: {launcher: {_target_: os.mkdir, path: TMP/canary}}",
    "launcher by reference": "hydra: {launcher: '${dataset.source}'}",
    "sweeper": "hydra: {sweeper: {_target_: os.mkdir, path: TMP/canary}}",
    "nested in the sweeper": "hydra: {sweeper: {x: {_target_: os.mkdir}}}",
    "sweeper's resolver": "hydra: {sweeper: {max_batch_size: '${oc.env:HOME}'}}",
    "sweeper chooses": "hydra: {sweeper: {params: {experiment: ../../../x/envset}}}",
    "sweeper sets": "hydra: {sweeper: {params: {hydra.job.chdir: 'true'}}}",
    "sweeper builds": "hydra: {sweeper: {params: {model._target_: 'choice(os.mkdir,os.rmdir)'}}}",
    "sweeper resolves": "hydra: {sweeper: {params: {dataset.name: '${oc.env:HOME}'}}}",
    "folder of a sweep's job": "hydra: {sweep: {subdir: ../../elsewhere}}",
    "mode": "hydra: {mode: MULTIRUN}",
    "verbose": "hydra: {verbose: true}",
    "search path": "hydra: {searchpath: ['pkg://payload']}",
    "help": "hydra: {help: {template: x}}",
    "environment in a value": "dataset: {name: '${oc.env:HOME}'}",
    "environment in a list": "dataset: {warnings: ['${oc.env:HOME}']}",
    "environment in a path": "paths: {cache_dir: '${oc.env:HOME}/x'}",
    "a resolver that creates": "model: ${oc.create:{_target_:os.mkdir}}",
    "a resolver that decodes": "model: {width: \"${oc.decode:'8'}\"}",
    "a resolver in a resolver": "dataset: {name: '${oc.${seed}:HOME}'}",
    "a foreign class": "model: {_target_: os.mkdir, path: TMP/canary}",
    "a python tag": "dataset: {name: !!python/object/apply:os.mkdir [TMP/canary]}",
    "aliases": "a: &a [1, 1]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in pairwise("abcdefghi")
    ),
}  # fmt: skip
# conf/config.yaml has the last word on these: what the file says is never used.
WITHOUT_EFFECT = {
    "chdir": "hydra: {job: {chdir: true}}",
    "run dir": "hydra: {run: {dir: TMP/elsewhere}}",
    "sweep dir": "hydra: {sweep: {dir: TMP/elsewhere}}",
    "output_subdir": "hydra: {output_subdir: .hydra}",
    "logging": "defaults: [override /hydra/job_logging: default]",
    "other logging": "defaults: [override /hydra/hydra_logging: default]",
}
DEFAULTS = {
    "upwards": "- ../../x/envset\n",
    "upwards, absolute": "- /../../x/envset\n",
    "a group upwards": "- /model/../../../x: envset\n",
    "an option upwards": "- override /model: ../../x/envset\n",
    "an absolute option": "- override /model: TMP/x/envset\n",
    "a list of options": "- override /processors: [none, ../../x/envset]\n",
    "a package": "- /model/stockformer@hydra.job.env_set\n",
    "hydra's callbacks": "- /hydra/callbacks: ../../x/envset\n",
    "a sampler": "- override /hydra/sweeper: optuna\n- override /hydra/sweeper/sampler: nsgaii\n",
}
# OUT is the way from a group's folder to the payload, TMP the test's folder.
WORDS = [
    *(f"{group}=OUT/envset" for group in ("experiment", "search", "model", "dataset", "paths")),
    *(f"{group}=OUT/envset" for group in ("trainer", "split", "target", "loss", "processors")),
    *("experiment=OUT/envset.yaml", "experiment=./OUT/envset", "experiment='OUT/envset'"),
    *("experiment=TMP/x/envset", "experiment=/TMP/x/envset", "experiment=//TMP/x/envset"),
    *("experiment=paper/../OUT/envset", "experiment=..", "experiment=.", "experiment=../model/x"),
    *("+experiment=OUT/envset", "++experiment=OUT/envset", "+x/y=OUT/envset"),
    *("experiment@hydra.job.env_set=paper", "+model@hydra.job=stockformer", "experiment@x=paper"),
    *("experiment=[OUT/envset]", "processors=[none,OUT/envset]", "processors=[zscore,rank]"),
    *("processors=[{_target_:os.mkdir,path:TMP/canary}]", "experiment=${paths.data_dir}"),
    *("model=${oc.create:{_target_:os.mkdir}}", "model=${oc.env:HOME}", "model=${dataset}"),
    *("experiment=pkg://payload", "experiment=file://TMP/x/envset", "experiment=structured://x"),
    *("+model/../../x=envset", "+TMP/x=envset", "+../x=envset", "/experiment=OUT/envset"),
    *("hydra/launcher=OUT/envset", "hydra/sweeper=OUT/envset", "hydra/sweeper/sampler=OUT/envset"),
    *("hydra/launcher=[basic,OUT/envset]", "hydra/job_logging=OUT/envset", "hydra/env=OUT/envset"),
    *("hydra/hydra_logging=default", "hydra/callbacks=log_job_return", "+hydra/callbacks=OUT/x"),
    *("hydra/output=OUT/envset", "hydra/help=OUT/envset", "hydra=OUT/envset"),
    *("+hydra.job.env_set.PATH=TMP/bin", "hydra.job.env_copy=[HOME]", "hydra={job:{}}"),
    *("hydra.job_logging.root={}", "hydra.output_subdir=x", "hydra.mode=MULTIRUN"),
    *("hydra.searchpath=[pkg://payload]", "+hydra.searchpath=[file://TMP/x]"),
    *("hydra.launcher._target_=os.mkdir", "hydra.sweeper._target_=os.mkdir"),
    *("+hydra.launcher.x={_target_:os.mkdir}", "hydra.launcher=${dataset.source}"),
    *("hydra.run.dir=${oc.env:HOME}/x", "hydra.run.dir=${oc.create:x}"),
    *("tags=['${oc.env:HOME}']", "tags=['${oc.decode:1}']", "seed=${oc.env:HOME}"),
    *("paths.data_dir=${oc.env:HOME}", "paths.data_dir=${oc.env:STOCKFORMER_X,data}"),
    *("paths.data_dir=${oc.select:hydra.job}", "paths.data_dir=${hydra:runtime.cwd}"),
    *("dataset.source=${oc.create:{_target_:os.mkdir}}", "paths.data_dir=${oc.${seed}:HOME}"),
    *("dataset.name=${dataset.name}", "model.width=${model.layers}${oc.env:HOME}"),
    *("resume=${oc.env:HOME}", "tags=['${oc.dict.keys:paths}']", "tags=['${oc.deprecated:seed}']"),
]  # fmt: skip
SWEEPS = [
    ["experiment=paper,OUT/envset"],
    ["experiment=choice(paper,OUT/envset)"],
    ["search=optuna,OUT/envset"],
    ["+hydra.sweeper.params={experiment: 'choice(paper,OUT/envset)'}"],
    ["+hydra.sweeper.params={experiment: OUT/envset}"],
    ["+hydra.sweeper.params={hydra.job.chdir: 'true'}"],
    ["+hydra.sweeper.params={hydra/launcher: OUT/envset}"],
    ["+hydra.sweeper.params={tags: '[${oc.env:HOME}]'}"],
    ["+hydra.sweeper.params={model._target_: 'choice(os.mkdir,os.rmdir)'}"],
    ["search=optuna", "hydra.sweeper.params={model._target_: 'choice(os.mkdir,os.rmdir)'}"],
    ["search=optuna", "hydra.sweeper.search_space={seed: {type: categorical, choices: [1]}}"],
    ["search=optuna", "hydra.sweeper.custom_search_space=os.mkdir"],
    ["search=optuna", "hydra.sweeper.storage=redis://localhost"],
    ["search=optuna", "hydra.sweeper.storage=mysql://root@localhost/x"],
    ["search=optuna", "hydra.sweeper.storage=sqlite+pysqlcipher:///x.db"],
    ["search=optuna", "hydra.sweeper.storage='sqlite:///x.db?uri=true'"],
    ["search=optuna", "hydra.sweeper.storage={_target_:os.mkdir}"],
    ["search=optuna", "hydra.sweeper.sampler._target_=os.mkdir"],
    ["search=optuna", "hydra.sweeper.study_name=${oc.env:HOME}"],
    ["search=optuna", "hydra/sweeper/sampler=motpe"],
    ["hydra/sweeper=optuna"],
    ['+hydra.launcher.pre_dispatch=\'__import__("os").mkdir("canary")\''],
    ["model.width=8,${oc.env:HOME}"],
]


class Site:
    """A folder with a payload, a victim, and a copy of conf/ that the program takes for its own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.conf = folder, folder / "code" / "conf"
        shutil.copytree(config_folder(), self.conf)
        (folder / "x").mkdir()
        (folder / "x/envset.yaml").write_text("# @package _global_\n" + self.filled(ENVIRONMENT))
        (folder / "bin").mkdir()
        (folder / "bin/git").write_text(f"#!/bin/sh\nmkdir {folder}/canary\n")
        (folder / "bin/git").chmod(0o755)
        (folder / "payload").mkdir()
        (folder / "payload/__init__.py").write_text(f"import os; os.mkdir('{folder}/canary')")
        (folder / "victim").write_text("precious")
        for module in (cli, composition):
            patch.setattr(module, "config_folder", lambda: self.conf)
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        self.before = self.listing()

    def filled(self, text: str) -> str:
        return text.replace("OUT", "../../../x").replace("TMP", str(self.folder))

    def listing(self) -> dict[str, bytes]:
        outside = (p for p in self.folder.rglob("*") if self.conf not in p.parents)
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in outside}

    def refuses(self, words: list[str], *, multirun: bool = False) -> str:
        """The one line that says why."""
        with pytest.raises(ValueError, match=r"^[^\n]+$") as refusal:
            check_command_line(words, multirun)
        return str(refusal.value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        site = Site(tmp_path_factory.mktemp("site"), patch)
        yield site
        assert site.listing() == site.before  # nothing ran, nothing foreign was touched


def some(cases: Iterable[Any]) -> list[Any]:
    """Every fourth case; the others are for the long form."""
    cases = list(cases)
    return [
        case if i % 4 == 0 else pytest.param(case, marks=pytest.mark.full)
        for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize("word", some(WORDS))
def test_a_word_cannot_lead_out_of_conf_or_read_the_environment(site: Site, word: str) -> None:
    site.refuses([site.filled(word)])


@pytest.mark.parametrize("words", some(SWEEPS), ids=str)
def test_a_sweep_cannot_either(site: Site, words: list[str]) -> None:
    site.refuses([site.filled(word) for word in words], multirun=True)


@pytest.mark.parametrize("name", some(CONTENTS))
def test_a_file_of_conf_cannot_set_what_could_run(site: Site, name: str) -> None:
    file = site.conf / "experiment" / "evil.yaml"
    file.write_text("# @package _global_\n" + site.filled(CONTENTS[name]))
    try:
        site.refuses(["experiment=evil"], multirun=True)
    finally:
        file.unlink()


@pytest.mark.parametrize("name", some(CONTENTS))
def test_nor_can_a_file_of_the_users_own_folder(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "evil.yaml"
    file.write_text("# @package _global_\n" + site.filled(CONTENTS[name]))
    site.refuses([f"config_dir={tmp_path}", "experiment=evil"], multirun=True)


@pytest.mark.parametrize("name", some(WITHOUT_EFFECT))
def test_a_file_has_no_say_where_the_main_file_has_the_last_word(site: Site, name: str) -> None:
    def composed(*words: str) -> str:
        with initialize_config_dir(str(site.conf), **VERSION_BASE):
            config = compose("config", [*words], return_hydra_config=True)
        with open_dict(config):
            del config.hydra.runtime, config.hydra.overrides, config.hydra.job.override_dirname
        return OmegaConf.to_yaml(config)

    file = site.conf / "experiment" / "evil.yaml"
    file.write_text("# @package _global_\n" + site.filled(WITHOUT_EFFECT[name]))
    try:
        check_command_line(["experiment=evil"], multirun=False)
        assert composed("experiment=evil") == composed()
    finally:
        file.unlink()


@pytest.mark.parametrize("name", some(DEFAULTS))
def test_a_file_of_conf_cannot_name_what_lies_elsewhere(site: Site, name: str) -> None:
    for folder in ("experiment", "search"):
        file = site.conf / folder / "evil.yaml"
        file.write_text("# @package _global_\ndefaults:\n" + site.filled(DEFAULTS[name]))
        try:
            site.refuses([f"{folder}=evil"])
        finally:
            file.unlink()


@pytest.mark.parametrize("kind", ["file", "folder", "dangling"])
def test_a_link_in_conf_cannot_lead_out_of_it(site: Site, kind: str) -> None:
    link = site.conf / ("evil" if kind == "folder" else "experiment/evil.yaml")
    target = {"file": "x/envset.yaml", "folder": "x", "dangling": "x/nothing.yaml"}[kind]
    link.symlink_to(site.folder / target)
    try:
        assert "a link that leads out of conf/" in site.refuses(["seed=1"])
    finally:
        link.unlink()


@pytest.mark.parametrize("option", ["--help", "--hydra-help", "--info=config", "--cfg=job", "-m"])
def test_no_option_of_the_program_goes_round_the_checks(site: Site, option: str) -> None:
    word = site.filled("experiment=OUT/envset")
    status, output = captured(lambda: train_main([option, word]))
    assert status == 1
    assert "not the name of an option" in output
    assert "Traceback" not in output


def test_what_is_legitimate_is_still_composed(site: Site) -> None:
    os.environ.pop("STOCKFORMER_DATA", None)
    check_command_line(["experiment=paper", "hydra.run.dir=x/${now:%H}", "tags=[a]"], False)
    check_command_line(["paths.cache_dir=${paths.data_dir}/cache", "hydra.verbose=true"], False)
    (site.conf / "model/mine").mkdir()
    shutil.copy(site.conf / "model/stockformer.yaml", site.conf / "model/mine/a-1.yaml")
    check_command_line(["model=mine/a-1"], False)
    shutil.rmtree(site.conf / "model/mine")
    storage = "hydra.sweeper.storage='sqlite:///search.db'"
    check_command_line(["search=optuna", storage, "hydra.sweeper.n_trials=2"], True)
    check_command_line(["hydra/launcher=basic", "seed=1,2"], True)
