"""Which published parts of Stockformer earn their place: python -m benchmarks.ablation DATA_DIR

Trains `model=stockformer_small` as `experiment=nifty_zoo` does, with all its parts, and again
without one of them: the wavelet split (both encoders get the returns as they are), the dual encoder
(attention over days alone, on the returns as they are, and no fusion), the graph, the calendar, the
second task. By default on the first three of the six folds with one seed (--folds, --seeds; the
forecasts of several seeds are averaged). Prints the mean daily rank IC on the test days of these
folds, by fold, and each variant's lead over all parts, paired by date; nothing is written.
DATA_DIR: paths.data_dir. --quick: one fold, one epoch, two factors.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from benchmarks.variants import Variant, parser, run, train_variant, wanted
from stockformer.interface import Batch, Forecast
from stockformer.models.stockformer import DualEncoderLayer, Stockformer, mix_days


class WithoutWavelet(Stockformer):
    """Both encoders get the returns as they are."""

    def forward(self, batch: Batch) -> Forecast:
        returns = batch.returns
        return self.forecast(returns, returns, batch.trend, batch.factors, batch.calendar)


class OneEncoder(WithoutWavelet):
    """Attention over days and across stocks alone, without the convolution and the fusion; their
    weights stay unused."""

    def forecast(
        self, low: Tensor, high: Tensor, trend: Tensor, factors: Tensor, calendar: Tensor
    ) -> Forecast:
        time = self.time_embedding(calendar)
        state = self.embed_low(self.window(low, trend, factors))
        for layer in self.layers:
            assert isinstance(layer, DualEncoderLayer)
            state = layer.temporal_low(state, time[: self.lookback])
            state = state + layer.spatial_low(state, self.graph)
        state = mix_days(state, self.days_low) + time[self.lookback :]
        returns = self.head_return.in_full_precision(state).squeeze(-1).transpose(0, 1)
        logits = self.head_class.in_full_precision(state).transpose(0, 1)
        return Forecast(returns=returns, logits=logits, returns_low=returns, logits_low=logits)


WORDS = ("experiment=nifty_zoo", "model=stockformer_small")


def variant(*words: str, model: str = "") -> Variant:
    return partial(train_variant, words=(*WORDS, *words), model=model)


WHOLE = "all parts"
VARIANTS = {
    WHOLE: variant(),
    "without the wavelet": variant(model="benchmarks.ablation.WithoutWavelet"),
    "one encoder, no wavelet": variant(model="benchmarks.ablation.OneEncoder"),
    "without the graph": variant("graph=none"),
    "without the calendar": variant("model.calendar_slots=[1,1]"),
    "without the second task": variant("loss.classification_weight=0"),
}
NEEDS = {name: (WHOLE,) for name in VARIANTS if name != WHOLE}


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], list(VARIANTS), seeds=1).parse_args()
    names = wanted(arguments, VARIANTS, NEEDS)
    run({name: VARIANTS[name] for name in names}, arguments, NEEDS)


if __name__ == "__main__":
    main()
