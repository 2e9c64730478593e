"""Measuring what comes before a network: what must be done for the inputs of one view, on clips of the data set."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from mmkd.config import Settings, Views
from mmkd.cost.clips import StoredClip, median_over, some_clips
from mmkd.cost.extraction import detection_cost, flow_cost, step_cost
from mmkd.cost.network import use_threads
from mmkd.cost.record import Cost
from mmkd.dataset import Dataset
from mmkd.extract.sound import resample
from mmkd.pipeline import cached_dataset
from mmkd.reader import sound_rate
from mmkd.views import view_audio, view_rgb

USUAL_DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
"""One of the lightest of torchvision, to give an idea of detection where the data has boxes of its own."""


@dataclass
class Inputs:
    """What must be done for the inputs of one view.

    Attributes:
        steps: modality to the steps from the stored clip to what a network takes, with the cost of each; they are done
            one after the other, for one clip at a time. A step of one name is the same one in all modalities.
        notes: what the figures are of, for people.
    """

    steps: dict[str, list[Cost]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure_inputs(
    settings: Settings, views: Views, split: str, modalities: Collection[str], *, threads: int = 1, seconds: float = 2.0
) -> Inputs:
    """Measure on up to 24 clips of a split, in their test view; medians over clips. Reading from disk is not in it.

    Flow is computed by the method that made the data's, from each frame of the view and the one after it, which must be
    decoded as well. Where a detector found the data's boxes, it looks at each frame of the view. A network for either
    has random weights where the settings name no file.

    Args:
        views: geometry of the view.
        threads: of torch and OpenCV.
        seconds: about how long to measure each step, at most.
    """
    dataset = cached_dataset(settings.data_folder())
    clips = some_clips(settings, views, split)
    seen = [each for each in clips if each.record["rgb"]]
    heard = [each for each in clips if each.record["audio"]]
    detector = _detector_of(settings, dataset)
    found = Inputs({modality: [] for modality in modalities})
    with use_threads(threads), torch.inference_mode():
        if "audio" in modalities and heard:
            found.steps["audio"].append(_sound_decoding(dataset, views, heard, seconds))
        from_frames = [each for each in ("rgb", "flow", "boxes") if each in modalities]
        if from_frames and not seen:
            found.notes.append(f"No RGB frames were found in split {split}: nothing that is made of them is counted.")
            return found
        if from_frames:
            decoding = _decoding(views, seen, seconds)
            for modality in from_frames:
                found.steps[modality] += [decoding] if modality != "boxes" or detector else []
        if "flow" in modalities:
            cost, note = flow_cost(settings, dataset, views, seen, seconds)
            found.steps["flow"].append(cost)
            found.notes.append(note)
        if "boxes" in modalities:
            frames = round(median(len(each.shown) for each in seen))
            pixels = next(iter(seen[0].decode(seen[0].shown).values()))
            weights = settings.pack.detector_weights if detector else ""
            cost = detection_cost(detector or USUAL_DETECTOR, weights, pixels, frames, seconds)
            found.steps["boxes"] += [cost] if detector else []
            found.notes.append(_about_boxes(cost, detector, frames))
    return found


def _decoding(views: Views, clips: Sequence[StoredClip], seconds: float) -> Cost:
    """Frames decoded, cut and resized."""

    def run(clip: StoredClip) -> None:
        frames = clip.decode(clip.shown)
        view_rgb([frames[index] for index in clip.view.indices.tolist()], clip.view, views.size)

    return step_cost("decoding", median_over(clips, run, seconds))


def _sound_decoding(dataset: Dataset, views: Views, clips: Sequence[StoredClip], seconds: float) -> Cost:
    wanted = sound_rate(dataset, views)

    def run(clip: StoredClip) -> None:
        sound = resample(*clip.samples(), wanted)
        view_audio(sound, clip.view, wanted, clip.record["fps"], views.audio_seconds)

    return step_cost("sound decoding", median_over(clips, run, seconds))


def _detector_of(settings: Settings, dataset: Dataset) -> str:
    """The detector that found the data's boxes; empty where they came with the source."""
    name = dataset.made_by.get("detector", settings.pack.detector or "none")
    return "" if name == "none" or dataset.made_by.get("source") == "tabletop" else name


def _about_boxes(cost: Cost, detector: str, frames: int) -> str:
    light = "" if detector else "light "
    said = (
        f"torchvision's {light}{detector or USUAL_DETECTOR} takes {cost.gflops / frames:.3g} GFLOPs and "
        f"{cost.latency_ms / frames:.3g} ms a frame, {cost.gflops:.3g} GFLOPs and {cost.latency_ms:,.0f} ms a view, "
        f"with {cost.parameters / 1e6:.1f} M parameters"
    )
    if detector:
        return f"Boxes: {said}; the number of boxes that it looks at closely depends on its weights."
    return (
        "Boxes came with the data and cost nothing here. On other videos a detector has to find them, which is in no "
        f"row: {said}."
    )
