"""Which published parts of Stockformer earn their place: python -m benchmarks.ablation DATA_DIR

Trains `model=stockformer_small` on `experiment=nifty_wf` with all its parts, and again without one
of them: the wavelet split (both encoders get the returns as they are), the dual encoder (attention
over days alone, on the returns as they are, and no fusion), the graph, the calendar, the second
task. By default on the first three of the six folds with one seed (--folds, --seeds; the forecasts
of several seeds are averaged). Prints the mean daily rank IC on the test days of these folds, by
fold, and each variant's lead over all parts, paired by date; nothing is written. DATA_DIR:
paths.data_dir. --quick: one fold, one epoch, two factors, five days.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from benchmarks.variants import Variant, parser, plain, run
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


def without(word: str) -> Variant:
    return partial(plain, words=(*WORDS, word))


WORDS = ("experiment=nifty_wf", "model=stockformer_small")
VARIANTS: dict[str, Variant] = {
    "all parts": partial(plain, words=WORDS),
    "without the wavelet": partial(plain, words=WORDS, model="benchmarks.ablation.WithoutWavelet"),
    "one encoder, no wavelet": partial(plain, words=WORDS, model="benchmarks.ablation.OneEncoder"),
    "without the graph": without("graph=none"),
    "without the calendar": without("model.calendar_slots=[1,1]"),
    "without the second task": without("loss.classification_weight=0"),
}


def main() -> None:
    run(VARIANTS, parser(__doc__.splitlines()[0], seeds=1).parse_args())


if __name__ == "__main__":
    main()
