"""What networks and ensembles cost: counts by hand, sums, and the inputs that have to be made."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmkd.cost import flops_per_view
from mmkd.cost.clips import StoredClip, some_clips
from mmkd.cost.extraction import detection_cost, flow_cost
from mmkd.cost.inputs import measure_inputs
from mmkd.cost.network import measure_cost, peak_megabytes, use_threads
from mmkd.cost.record import Cost
from mmkd.cost.table import cost_lines, cost_table, ensemble_cost
from mmkd.models import create_model, save_model
from mmkd.pipeline import cached_dataset
from mmkd.views import View
from tests.small import HEADS, RATE, small_settings

pytestmark = pytest.mark.slow

QUICK = 0.02


class OneConvolution(nn.Module):
    num_features = 4

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(3, 4, 3, padding=1, bias=False)

    def forward(self, x):
        return self.convolution(x).mean(dim=(2, 3, 4))


def test_flops_and_parameters_are_those_counted_by_hand():
    model = create_model("tests.test_cost:OneConvolution", {"verb": 3, "noun": 2})
    convolution, classifiers = 2 * (5 * 8 * 8) * (3 * 3 * 3 * 3 * 4), 2 * 4 * (3 + 2)
    assert flops_per_view(model, {"frames": 5, "size": 8}) == convolution + classifiers
    cost = measure_cost(model, {"frames": 5, "size": 8}, name="one", seconds=QUICK)
    assert cost.gflops == (convolution + classifiers) / 1e9
    assert cost.parameters == 3 * 3 * 3 * 3 * 4 + (4 + 1) * (3 + 2)
    assert _positive(cost) and cost.parts == {} and cost.batch in (1, 2, 4, 8, 16, 32, 64)


def test_measuring_leaves_the_model_and_the_number_of_threads_as_they_were():
    threads = torch.get_num_threads()
    model = create_model("r2plus1d_tiny", HEADS, channels=(4, 8)).train()
    measure_cost(model, {"frames": 2, "size": 16}, name="one", threads=threads + 1, seconds=QUICK)
    assert model.training and torch.get_num_threads() == threads


def test_an_ensemble_costs_the_sum_of_its_networks_and_inputs():
    rgb = Cost("rgb", 1_000_000, 2.0, 10.0, 200.0, 7.0, {}, 16)
    audio = Cost("audio", 500_000, 1.0, 5.0, 400.0, 12.0, {"spectrogram": 2.0}, 8)
    flow = Cost("optical flow", 250_000, 0.5, 20.0, 50.0, 3.0)
    whole = ensemble_cost([rgb, audio], [flow])
    assert (whole.parameters, whole.gflops, whole.latency_ms) == (1_750_000, 3.5, 35.0)
    assert whole.clips_per_second == pytest.approx(1 / (1 / 200 + 1 / 400 + 1 / 50))
    assert whole.peak_mb == pytest.approx(4 + 2 + 1 + 10)  # all weights, and the 10 MB that audio needs besides
    assert whole.parts == {"optical flow": 20.0, "spectrogram": 2.0}
    assert ensemble_cost([rgb], [], "rgb") == rgb


def test_inputs_are_what_has_to_be_made_of_the_frames(home: Path):
    settings = small_settings(home)
    inputs = measure_inputs(settings, settings.views, "test", ["rgb", "flow", "audio", "boxes"], seconds=QUICK)
    steps = {modality: [step.name for step in steps] for modality, steps in inputs.steps.items()}
    assert steps == {
        "rgb": ["decoding"],
        "flow": ["decoding", "optical flow"],
        "audio": ["sound decoding"],
        "boxes": [],
    }
    assert all(step.latency_ms > 0 for each in inputs.steps.values() for step in each)
    about_flow, about_boxes = inputs.notes
    assert "OpenCV DIS, medium (as in the data), 4 times a view" in about_flow
    assert "Boxes came with the data" in about_boxes and "a detector has to find them" in about_boxes


def test_a_detector_that_found_the_boxes_is_counted_for_each_frame(home: Path):
    name = "ssdlite320_mobilenet_v3_large"
    settings = small_settings(home, pack={"detector": name})
    inputs = measure_inputs(settings, settings.views, "test", ["boxes"], seconds=QUICK)
    decoding, detection = inputs.steps["boxes"]
    with use_threads(1):
        one = detection_cost(name, "", np.zeros((24, 32, 3), np.uint8), 1, QUICK)
    assert (decoding.name, detection.name) == ("decoding", "object detection")
    assert detection.gflops == pytest.approx(4 * one.gflops) and detection.parameters == one.parameters > 1e6
    assert one.peak_mb > 4 * one.parameters / 1e6 or math.isnan(one.peak_mb)


def test_flow_by_a_network_has_flops_and_parameters(home: Path):
    settings = small_settings(home, pack={"flow": "raft_small"})
    clips = some_clips(settings, settings.views, "test")[:1]
    dataset = cached_dataset(settings.data_folder())
    with use_threads(1):
        cost, note = flow_cost(settings, dataset, settings.views, clips, QUICK)
        dataset = replace(dataset, made_by={"flow": "the source's"})
        stand_in, said = flow_cost(small_settings(home), dataset, settings.views, clips, QUICK)
    assert cost.gflops > 0 and cost.parameters > 9e5 and "RAFT small" in note
    assert stand_in.gflops == stand_in.parameters == 0 and "in place of" in said


def test_flow_needs_the_frame_after_each_frame_of_the_view():
    clip = StoredClip({}, 6, View(np.array([0, 2, 4, 5])), "jpeg")
    assert clip.pairs(1) == [(0, 1), (2, 3), (4, 5)]
    assert clip.pairs(2) == [(0, 2), (2, 4), (3, 5)]
    assert StoredClip({}, 1, View(np.array([0, 0])), "jpeg").pairs(1) == []


def test_the_table_has_each_model_with_its_inputs_and_the_ensemble(home: Path, tmp_path: Path):
    audio = create_model("melnet", HEADS, "audio", sample_rate=RATE)
    audio.spec.input = {"frames": 4, "sampling": "uniform", "audio_seconds": 0.1, "sample_rate": RATE}
    save_model(audio, tmp_path / "audio")
    folders = [str(home / "models" / "rgb"), str(home / "models" / "flow"), str(tmp_path / "audio")]
    names = ["student", "teacher flow", "teacher audio"]
    costs, notes = cost_table(small_settings(home), folders, names, "test", ensemble=names[1:], seconds=QUICK)
    student, flow, sound, ensemble = costs
    assert [cost.name for cost in costs] == [*names, "ensemble"] and all(map(_positive, costs))
    assert set(student.parts) == {"decoding"} and set(flow.parts) == {"decoding", "optical flow"}
    assert set(sound.parts) == {"sound decoding", "spectrogram"}
    assert set(ensemble.parts) == set(flow.parts) | set(sound.parts)
    assert all(sum(cost.parts.values()) < cost.latency_ms for cost in costs)
    assert ensemble.latency_ms == pytest.approx(flow.latency_ms + sound.latency_ms)
    assert ensemble.gflops == pytest.approx(flow.gflops + sound.gflops)
    assert ensemble.parameters == flow.parameters + sound.parameters
    lines = cost_lines([Cost(**asdict(cost)) for cost in costs], notes)
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("The ensemble takes") for line in lines)


def test_peak_memory_is_that_of_what_is_held_at_a_time():
    def run() -> None:
        for _ in range(3):
            np.ones(40_000_000, np.uint8)

    peak = peak_megabytes(run)
    assert math.isnan(peak) or 39 < peak < 45


def _positive(cost: Cost) -> bool:
    numbers = (cost.parameters, cost.gflops, cost.latency_ms, cost.clips_per_second)
    return all(math.isfinite(x) and x > 0 for x in numbers) and not cost.peak_mb <= 0
