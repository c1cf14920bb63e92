"""Gradient-boosted trees on the factors, fitted by LightGBM (Ke et al., NeurIPS 2017).

The trees are kept as tensors: LightGBM's reader of models crashes on a damaged one.

B batch, H horizon, N stocks, F factors; C columns of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockformer.interface import Batch
from stockformer.models.regression import Boosting, boosted_trees
from stockformer.models.tabular import Table, Tabular

ROWS_AT_ONCE = 512


class LightGBM(Tabular):
    """The mean of `seeds` models that differ in their seed.

    choices: numbers of trees, equally far apart up to n_estimators, of which the validation days
    choose one. The other settings are LightGBM's, under its names.
    """

    column: Tensor
    threshold: Tensor
    below: Tensor
    value: Tensor
    used: Tensor

    def __init__(
        self,
        *,
        days: int,
        seeds: int,
        choices: int,
        n_estimators: int,
        learning_rate: float,
        num_leaves: int,
        min_child_samples: int,
        colsample_bytree: float,
        subsample: float,
        reg_lambda: float,
        horizon: int,
        factors: int,
    ) -> None:
        super().__init__(days=days, horizon=horizon)
        self.seeds, self.choices = seeds, choices
        self.settings = Boosting(
            n_estimators=n_estimators,
            learning_rate=learning_rate,
            num_leaves=num_leaves,
            min_child_samples=min_child_samples,
            colsample_bytree=colsample_bytree,
            subsample=subsample,
            reg_lambda=reg_lambda,
        )
        nodes = seeds * n_estimators * (2 * num_leaves - 1)
        self.register_buffer("column", torch.zeros(horizon, nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(horizon, nodes))
        itself = torch.arange(nodes).expand(horizon, 2, nodes)
        self.register_buffer("below", itself.clone())  # a leaf's are itself
        self.register_buffer("value", torch.zeros(horizon, nodes))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))

    def candidates(self, table: Table, seed: int) -> Iterator[str]:
        drawn = np.random.SeedSequence(seed).generate_state(self.seeds) % 2**31
        for step, (target, valid) in enumerate(zip(table.target.T, table.valid.T)):
            for place, each in enumerate(drawn):
                inputs, known = table.inputs[valid], target[valid]
                booster = boosted_trees(inputs, known, self.settings, int(each))
                for number, tree in enumerate(booster.dump_model()["tree_info"]):
                    self.keep(tree["tree_structure"], step, number * self.seeds + place)
        most = self.settings.n_estimators
        for trees in np.unique(np.linspace(0, most, self.choices + 1).astype(int)[1:]):
            self.used.fill_(int(trees))
            yield f"{trees} trees"

    def keep(self, tree: dict[str, Any], step: int, number: int) -> None:
        """Store LightGBM's description of a tree in the buffers."""
        first = self.size * number
        waiting, place = [tree], first
        for node in waiting:  # grows as branches are read
            is_leaf = "leaf_value" in node
            self.value[step, place] = node["leaf_value" if is_leaf else "internal_value"]
            if not is_leaf:
                self.column[step, place] = node["split_feature"]
                self.threshold[step, place] = rounded_down(node["threshold"])
                for side, name in enumerate(("left_child", "right_child")):
                    self.below[step, side, place] = first + len(waiting)
                    waiting.append(node[name])
            place += 1

    @property
    def size(self) -> int:
        """The most nodes of a tree."""
        return 2 * self.settings.num_leaves - 1

    def predict(self, rows: Tensor) -> Tensor:
        table = rows.flatten(0, -2)
        leaves = [
            [self.value[step][path[-1]].sum(dim=1) for path in self.paths(table, step)]
            for step in range(len(self.value))
        ]
        forecast = torch.stack([torch.cat(parts) for parts in leaves], dim=-1) / self.seeds
        return forecast.unflatten(0, rows.shape[:-1])

    def paths(self, table: Tensor, step: int) -> Iterator[list[Tensor]]:
        """The nodes (r, trees) that rows pass, from the root to the leaf, some rows at a time.

        table (R, C). Ends also where a damaged checkpoint's children form a circle.
        """
        roots = self.size * torch.arange(int(self.used) * self.seeds, device=table.device)
        for some in table.split(ROWS_AT_ONCE):
            path = [roots.expand(len(some), -1)]
            for _ in range(self.settings.num_leaves - 1):
                node = path[-1]
                left = some.gather(1, self.column[step][node]) <= self.threshold[step][node]
                on_left, on_right = (side[node] for side in self.below[step])
                path.append(torch.where(left, on_left, on_right))
                if torch.equal(path[-1], node):
                    break
            yield path

    def contributions(self, batch: Batch) -> Tensor:
        """(B, N, H, F): what the splits by each factor, all its days together, add to the forecast.

        Each split adds the change of the mean over the training rows below it (Saabas 2014); all
        together they are the forecast less its mean in training.
        """
        table, shape = self.rows(batch).flatten(0, 1), batch.factors[:, -1].shape
        found = table.new_zeros(len(table), len(self.value), table.shape[1])
        for step, value in enumerate(self.value):
            for part, path in zip(found[:, step].split(ROWS_AT_ONCE), self.paths(table, step)):
                for node, below in pairwise(path):
                    part.scatter_add_(1, self.column[step][node], value[below] - value[node])
        by_day = found.unflatten(2, (self.days, -1)).sum(dim=2) / self.seeds  # (R,H,F)
        return by_day.unflatten(0, shape[:2])


def rounded_down(number: float) -> float:
    """The largest float32 that is not above it: comparisons of float32 with it are the same."""
    rounded = np.float32(number)
    return float(
        rounded if float(rounded) <= number else np.nextafter(rounded, np.float32(-np.inf))
    )
