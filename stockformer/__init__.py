"""Stockformer: train, validate, sweep and judge Multitask-Stockformer on a panel of stocks."""

__version__ = "0.1.0"
