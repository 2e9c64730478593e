"""Sound at another sample rate."""

import numpy as np
from numpy.typing import NDArray


def resample(samples: NDArray[np.int16], rate: int, new_rate: int) -> NDArray[np.int16]:
    """Mono sound at `new_rate` samples per second, int16 [samples * new_rate / rate], by the SoX resampler."""
    if rate == new_rate:
        return samples
    import soxr

    return soxr.resample(samples, rate, new_rate)
