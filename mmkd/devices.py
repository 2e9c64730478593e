"""The device that a process's networks run on, and the precision there."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(gpus: float) -> torch.device:
    """The device of a process that reserves some GPUs, or a share of one.

    Ray's GPUs can be logical ones, on a machine that has none.
    """
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """torch's autocast in bf16 or fp16; in fp32 it does nothing."""
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
