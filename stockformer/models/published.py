"""Reads a checkpoint of the published Multitask-Stockformer into this project's model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stockformer.models.stockformer import Stockformer

# Our module -> the published modules whose rows are stacked into it, in order.
HEADS = {
    "embed_low": ["features.start_emb_l"],
    "embed_high": ["features.start_emb_h"],
    "embed_time": ["features.te_emb.ff_te"],
    "fusion.feedforward": ["features.adaptive_fusion.ff"],
    "head_class": ["classifier.end_emb_class"],
    "head_return": ["classifier.end_emb_regress"],
}
FUSION = {
    "fusion.query": ["qlfc"],
    "fusion.key_value": ["khfc", "vhfc"],
    "fusion.output": ["ofc"],
}
# Published tensors that no forward pass uses, and one with two names.
IGNORED = (".proj.", ".klfc.", ".vlfc.", ".tcn.tcn.0.0.")


def load_published(model: Stockformer, state: Mapping[str, Tensor]) -> None:
    """Load a published state dict, e.g. `torch.load(path, weights_only=True)`, into `model`.

    The graph embedding is no parameter of the published model and does not change. Raises
    ValueError naming tensors that are missing, unexpected or of another shape.
    """
    own = dict(model.named_parameters())
    translated = translate(state, layers=len(model.layers))
    translated |= {"graph": own["graph"]} if "graph" in own else {}
    wrong = [
        f"{name}: published {tuple(tensor.shape)}, model {tuple(own[name].shape)}"
        for name, tensor in translated.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if wrong or translated.keys() != own.keys():
        unknown = sorted(translated.keys() ^ own.keys())
        raise ValueError(f"published checkpoint does not fit the model: {wrong or unknown}")
    model.load_state_dict(translated, strict=False)


def translate(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Published tensors under this project's names; the map is linear, so gradients pass too."""
    left = {name: tensor for name, tensor in state.items() if not any(i in name for i in IGNORED)}
    done: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in left:
            raise ValueError(f"published checkpoint has no tensor {name!r}")
        return left.pop(name)

    def stack(target: str, sources: list[str]) -> None:
        for kind in ("weight", "bias"):
            done[f"{target}.{kind}"] = torch.cat([take(f"{source}.{kind}") for source in sources])

    def two_layers(target: str, source: str, first: str, second: str) -> None:
        stack(f"{target}.0", [f"{source}.{first}"])
        stack(f"{target}.2", [f"{source}.{second}"])

    for target, (source,) in HEADS.items():
        two_layers(target, source, "linear.0", "linear.1")
    for target, parts in FUSION.items():
        stack(target, [f"features.adaptive_fusion.{part}.linear.0" for part in parts])
    for band, source in (("days_low", "pre_l"), ("days_high", "pre_h")):
        done[f"{band}.weight"] = take(f"features.{source}.weight")[:, :, 0, 0]
        done[f"{band}.bias"] = take(f"features.{source}.bias")
    for i in range(layers):
        ours, theirs = f"layers.{i}", f"features.dual_encoder.{i}"
        temporal = f"{theirs}.tatt"
        stack(
            f"{ours}.temporal_low.query_key_value",
            [f"{temporal}.{part}.linear.0" for part in ("qfc", "kfc", "vfc")],
        )
        stack(f"{ours}.temporal_low.output", [f"{temporal}.ofc.linear.0"])
        two_layers(f"{ours}.temporal_low.feedforward", f"{temporal}.ff", "linear.0", "linear.1")
        kernel = take(f"{theirs}.tcn.conv.weight")[:, :, 0]  # (D, D, 2): yesterday, today
        done[f"{ours}.temporal_high.yesterday_today.weight"] = torch.cat(kernel.unbind(-1), dim=1)
        done[f"{ours}.temporal_high.yesterday_today.bias"] = take(f"{theirs}.tcn.conv.bias")
        for band, source in (("low", "ssal"), ("high", "ssah")):
            target, spatial = f"{ours}.spatial_{band}", f"{theirs}.{source}"
            stack(
                f"{target}.query_key_value", [f"{spatial}.{part}" for part in ("qfc", "kfc", "vfc")]
            )
            stack(f"{target}.output", [f"{spatial}.ofc"])
            two_layers(f"{target}.feedforward", f"{spatial}.ff", "0", "2")
    if left:
        raise ValueError(f"published checkpoint has unexpected tensors: {sorted(left)}")
    return done
