"""Stockformer: train, validate, sweep and judge Multitask-Stockformer on a panel of stocks."""
