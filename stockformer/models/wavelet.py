"""The decoupling flow of Stockformer: a wavelet transform as one fixed matrix for each band."""

from __future__ import annotations

import numpy as np
import pywt


def band_matrices(length: int, wavelet: str) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high band of a series of `length` steps as matrices (length, length).

    One level, zero padding: `low @ x` is the inverse transform of x with the detail set to zero,
    `high @ x` with the approximation set to zero, the first `length` steps kept; low + high = 1.
    A band's value at one step uses later steps of the same window, never of the future beyond it.
    """
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(f"wavelet: {wavelet!r} is not a discrete wavelet of PyWavelets, e.g. sym2")
    approximation, detail = pywt.dwt(np.eye(length), wavelet, mode="zero", axis=0)
    low = pywt.idwt(approximation, np.zeros_like(detail), wavelet, mode="zero", axis=0)[:length]
    high = pywt.idwt(np.zeros_like(approximation), detail, wavelet, mode="zero", axis=0)[:length]
    return low, high
