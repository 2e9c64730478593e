"""predict: what a model says of a video, as one clip or by sliding windows."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

import torch

from mmkd.inference.answers import Prediction, answer, open_model
from mmkd.inference.sampling import Sampling, sampling_of
from mmkd.inference.windows import video_windows
from mmkd.models import Recogniser
from mmkd.storage import StrPath


def predict(
    model: Recogniser | str | os.PathLike[str],
    video: StrPath,
    *,
    views: str = "1x1",
    window: float = 0.0,
    hop: float = 0.0,
    device: str | torch.device = "cpu",
    trust: Collection[str] = (),
) -> list[Prediction]:
    """What an RGB model says of a video: one prediction, or with `window` one for each window.

    The frames are those that packing the video like the model's training data, and evaluating the model on it, would
    show; no JPEG comes between. A window that is damaged has no answer but an `error`; the others are answered.

    Args:
        model: a model folder, or a model from :func:`mmkd.load_model`, which is put into evaluation mode.
        video: path of a video file, local or remote.
        views: grid of test views, in time x in space (1 or 3), as 10x3; logits are averaged.
        window: seconds of each clip; 0: the video is one clip.
        hop: seconds from the start of a window to that of the next; 0: `window`, so that they do not overlap.
        device: of a model folder; a model in memory stays where it is.
        trust: networks of one's own that the model folder may name, see :func:`mmkd.load_model`.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: the model or an argument cannot be used, or no part of the video can be answered.
    """
    ready = open_model(model, device, trust)
    name = "the model" if isinstance(model, Recogniser) else model
    found = list(predict_windows(ready, video, sampling_of(ready.spec, views, name), window, hop))
    if all(each.error for each in found):
        raise ValueError(f"{os.fspath(video)}: {found[0].error}")
    return found


def predict_windows(
    model: Recogniser, video: StrPath, sampling: Sampling, window: float = 0.0, hop: float = 0.0
) -> Iterator[Prediction]:
    """The predictions of :func:`predict` one by one, as the video is decoded; all may have an error.

    Args:
        sampling: of the model, see :func:`mmkd.inference.sampling.sampling_of`.
    """
    for clip in video_windows(video, sampling, window, hop):
        if clip.rgb is None:
            yield Prediction(model.spec, clip.start, clip.stop, error=clip.error)
        else:
            yield answer(model, clip.rgb, clip.start, clip.stop)
