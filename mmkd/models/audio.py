"""Sound: log-mel spectrograms and a small network over the windows around each sampled frame."""

import math
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn


def log_mel(
    samples: Tensor,
    sample_rate: int,
    *,
    num_mels: int = 128,
    n_fft: int = 1024,
    window_seconds: float = 0.01,
    hop_seconds: float = 0.005,
) -> Tensor:
    """Mel spectrogram in decibels, as the paper's audio teacher sees it (before resizing).

    Power spectrogram (Hann window, centred with reflection), HTK mel filters without area normalisation,
    10 log10 of the power floored at 1e-10; in float32 even under autocast, as fp16 has no 1e-10. The defaults are the
    authors' at 16 kHz (window 160, hop 80 samples); at another rate the window and hop keep their length in seconds
    and the filters follow the rate.

    Args:
        samples: float [..., samples], mono.
        sample_rate: samples per second.

    Returns:
        float [..., num_mels, time] with time = samples // hop + 1.
    """
    window_length, hop = round(window_seconds * sample_rate), round(hop_seconds * sample_rate)
    n_fft = max(n_fft, 1 << (window_length - 1).bit_length())
    flat = samples.reshape(-1, samples.shape[-1])
    window = torch.hann_window(window_length, dtype=flat.dtype, device=flat.device)
    spectrum = torch.stft(
        flat, n_fft, hop, window_length, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    real, imaginary = spectrum.real, spectrum.imag
    power = torch.addcmul(real.square(), imaginary, imaginary)  # abs() takes a root, four times as long
    filters = mel_filters(num_mels, n_fft, sample_rate).to(power)
    with nullcontext() if power.is_meta else torch.autocast(power.device.type, enabled=False):
        mel = filters @ power
    decibels = 10.0 * torch.log10(mel.clamp_min(1e-10))
    return decibels.reshape(*samples.shape[:-1], *decibels.shape[-2:])


@lru_cache(maxsize=8)
def mel_filters(num_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangular HTK mel filters from 0 Hz to half the sample rate, float32 [num_mels, n_fft // 2 + 1]."""
    # Kept for later calls, so made on the CPU whatever the default device of this one is.
    frequencies = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1, device="cpu")
    top = 2595.0 * math.log10(1.0 + (sample_rate // 2) / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, top, num_mels + 2, device="cpu") / 2595.0) - 1.0)
    width = edges.diff()
    slopes = edges[:, None] - frequencies[None, :]
    falling, rising = -slopes[:-2] / width[:-1, None], slopes[2:] / width[1:, None]
    return torch.minimum(falling, rising).clamp_min(0.0)


class MelNet(nn.Module):
    """A small audio backbone: a 2D network over each window's spectrogram, then a temporal convolution over windows.

    Float samples [batch, frames, samples] in -1..1 to features [batch, num_features].
    """

    def __init__(self, sample_rate: int = 16000, num_mels: int = 64, width: int = 24, dropout: float = 0.3):
        super().__init__()
        self.sample_rate, self.num_mels = sample_rate, num_mels
        layers: list[nn.Module] = []
        channels = [1, width, 2 * width, 4 * width]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.spectral = nn.Sequential(*layers)
        self.num_features = channels[-1]
        self.temporal = nn.Sequential(
            nn.Conv1d(self.num_features, self.num_features, 3, padding=1, bias=False),
            nn.BatchNorm1d(self.num_features),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, samples: Tensor) -> Tensor:
        samples = as_float(samples)
        batch, frames = samples.shape[:2]
        mel = log_mel(
            samples, self.sample_rate, num_mels=self.num_mels, n_fft=512, window_seconds=0.02, hop_seconds=0.01
        )
        x = (mel + 40.0) / 30.0  # brings -100..20 dB to about -2..2
        x = self.spectral(x.reshape(batch * frames, 1, *x.shape[-2:])).mean(dim=(2, 3))
        x = self.temporal(x.reshape(batch, frames, -1).transpose(1, 2))
        return self.dropout(x.mean(dim=2))


class Spectrograms(nn.Module):
    """Sound as video for an image or video network, as the paper's audio teacher sees it.

    Int16 or float (-1..1) samples [batch, frames, samples] to float [batch, channels, frames, size, size]: the mel
    spectrogram of each window, resized to a square (nearest), in decibels, (x + 28.1125) / 16.5627, in equal channels.

    Args:
        time_mask, freq_mask: in training, a stretch of up to this share (0..1) of a window's time or frequency is
            replaced by the window's mean (SpecAugment: Park et al., 2019, arXiv 1904.08779).
    """

    MEAN, STD = -28.1125, 16.5627

    def __init__(
        self,
        channels: int,
        sample_rate: int = 16000,
        spectrogram_size: int = 224,
        time_mask: float = 0.0,
        freq_mask: float = 0.0,
    ):
        super().__init__()
        self.channels, self.sample_rate, self.size = channels, sample_rate, spectrogram_size
        self.time_mask, self.freq_mask = time_mask, freq_mask

    def forward(self, samples: Tensor) -> Tensor:
        mel = log_mel(as_float(samples), self.sample_rate)
        mel = nn.functional.interpolate(mel, size=(self.size, self.size))
        if self.training:
            mel = _masked(_masked(mel, -1, self.time_mask), -2, self.freq_mask)
        mel = (mel - self.MEAN) / self.STD
        return mel.unsqueeze(1).expand(-1, self.channels, -1, -1, -1)


def as_float(samples: Tensor) -> Tensor:
    """Int16 samples to -1..1; float ones as they are."""
    return samples.float() / 32768.0 if samples.dtype == torch.int16 else samples.float()


def _masked(mel: Tensor, axis: int, share: float) -> Tensor:
    """Replace a stretch of each window [batch, frames, mels, time] along an axis by the window's mean."""
    if share <= 0:
        return mel
    size = mel.shape[axis]
    length = torch.rand(*mel.shape[:2], 1, device=mel.device) * share * size
    start = torch.rand(*mel.shape[:2], 1, device=mel.device) * (size - length)
    place = torch.arange(size, device=mel.device)
    blank = (place >= start.floor()) & (place < (start + length).floor())
    blank = blank.unsqueeze(-2 if axis == -1 else -1)
    return torch.where(blank, mel.mean(dim=(-2, -1), keepdim=True), mel)
