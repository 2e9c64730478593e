"""What it costs to answer, as a record."""

from dataclasses import dataclass, field


@dataclass
class Cost:
    """What it costs to answer for one view of one clip, from the stored clip to the logits.

    Attributes:
        name: "student", "teacher rgb", ..., "ensemble".
        gflops: 10^9 floating-point operations, a multiplication and an addition being two, as far as torch counts them.
        latency_ms: of a batch of 1, with the making of inputs.
        clips_per_second: in the best batch, with the making of inputs.
        peak_mb: weights, and the most that else is held at a time, for a batch of 1; MB of 10^6 bytes.
        parts: what of the latency is not spent in the network's layers, e.g. {"optical flow": ms}.
        batch: the best one; 0 where several networks have each their own.
    """

    name: str
    parameters: int
    gflops: float
    latency_ms: float
    clips_per_second: float
    peak_mb: float
    parts: dict[str, float] = field(default_factory=dict)
    batch: int = 0
