"""The checks before an expensive run, with train.py's overrides: python validate.py model.width=64

Ends with "ALL CHECKS PASSED - Ready to train"; with "CHECKS PASSED", the number of
warnings about the data and the caveats by which test results are optimistic or cannot be trusted;
or with the check that failed and what to do.
"""

from pathlib import Path

from omegaconf import DictConfig

from stockformer.commands.command import command, log_config


def validate(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    log_config(config)
    from stockformer.audit.preflight import Preflight  # noqa: PLC0415 (torch, after checks)

    Preflight(config, overrides).run()


main = command(validate, run_folder=False)
