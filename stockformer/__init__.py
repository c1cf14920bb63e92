"""Stockformer: train, validate, sweep and evaluate Multitask-Stockformer on a panel of stocks."""

__version__ = "0.2.0.dev0"
