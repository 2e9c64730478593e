"""Numbers that the authors' code gives, for tests/test_reference.py to compare with: tests/golden/reference.json.

    git clone https://github.com/gorjanradevski/multimodal-distillation
    pip install yacs einops torchaudio
    PYTHONPATH=. python benchmarks/reference_numbers.py multimodal-distillation/src tests/golden/reference.json

The stored ones were made at commit 5444c66505ba98e6e2ffb5c2b2de073e56a92c72.
"""

import json
import random
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests import reference_cases as cases


def main(source: str, out: str) -> None:
    sys.path.insert(0, source)
    for name in ("ffmpeg", "accelerate"):  # imported by the authors' modules, not used for what is asked of them here
        sys.modules[name] = types.ModuleType(name)
    sys.modules["accelerate"].Accelerator = sys.modules["accelerate"].DistributedDataParallelKwargs = object  # type: ignore[attr-defined]
    from utils.setup import get_cfg_defaults

    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "losses": losses(),
        "weights": weights(),
        "swin": [swin(get_cfg_defaults(), *shape) for shape in ((2, 4, 64), (1, 8, 112))],
        "resnet": {str(depth): resnet(get_cfg_defaults(), depth) for depth in cases.RESNETS},
        "stlt": stlt(get_cfg_defaults()),
        "mel": mel(),
        "samplers": samplers(),
        "metrics": metrics(),
        "boxes": repaired(),
    }
    Path(out).write_text(json.dumps(result, separators=(",", ":")) + "\n")


def listed(tensor: Any) -> Any:
    return np.asarray(tensor, dtype=np.float64).round(9).tolist()


def losses() -> list[dict[str, Any]]:
    from modelling.distiller import DistillationCriterion

    found = []
    for case in cases.LOSSES:
        terms = SimpleNamespace(DISTILLATION=case["distill"], GROUND_TRUTH=case["label"])
        cfg = SimpleNamespace(ACTION_WEIGHTS=case["weights"], TEMPERATURE=case["T"], LOSS_WEIGHTS=terms)
        student = {head: x.requires_grad_() for head, x in cases.logits("student").items()}
        loss = DistillationCriterion(cfg)(student, cases.logits("teacher"), {"labels": cases.labels("label")})
        loss.backward()
        gradients = {head: listed(x.grad) for head, x in student.items() if x.grad is not None}
        found.append({"loss": float(loss), "gradients": gradients})
    return found


def weights() -> dict[str, Any]:
    from modelling.distiller import TeacherEnsemble

    logits = torch.from_numpy(3 * cases.numbers("teachers", 6, 3, 5))
    labels = cases.labels("label")["NOUN"]
    found = {}
    for gamma in cases.GAMMAS:
        own = SimpleNamespace(cfg=SimpleNamespace(WEIGHTS_TEMPERATURE=gamma))
        own.get_losses_wrt_labels = lambda *a: TeacherEnsemble.get_losses_wrt_labels(None, *a)
        weight = TeacherEnsemble.get_per_sample_weights(own, logits, labels)
        found[str(gamma)] = {"weights": listed(weight), "ensemble": listed((logits * weight.unsqueeze(-1)).sum(1))}
    return found


def answers(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    model.load_state_dict(cases.fill(model.state_dict()))
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    with torch.no_grad():
        model.train(False)
        return {"logits": {head: listed(x) for head, x in model(batch).items()}, "shapes": shapes}


def config(cfg: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(cfg, name, value)
    for head, classes in cases.HEADS.items():
        cfg.TOTAL_ACTIONS[head] = classes
    return cfg


def video(seed: str, batch: int, number: int, size: int) -> torch.Tensor:
    return torch.from_numpy(cases.frames(seed, batch, number, size)).permute(0, 1, 4, 2, 3).float().div(255)[:, None]


def swin(cfg: Any, batch: int, number: int, size: int) -> dict[str, Any]:
    from modelling.models import SwinModel
    from utils.data_utils import get_normalizer

    model = SwinModel(config(cfg, MODEL_NAME="swin", DATASET_TYPE="video"))
    frames = video("swin", batch, number, size)
    found = {"input": [batch, number, size]} | answers(model, {"video": frames})
    with torch.no_grad():
        x = get_normalizer("video", "swin")(frames)[:, 0].permute(0, 2, 1, 3, 4)
        found["features"] = listed(model.backbone(x).mean(dim=[2, 3, 4]))
    return found


def resnet(cfg: Any, depth: int) -> dict[str, Any]:
    from modelling.models import R3d

    model = R3d(config(cfg, MODEL_NAME="resnet3d", DATASET_TYPE="video", RESNET3D_DEPTH=depth))
    return {
        size: answers(model, {"video": video("resnet", 2, 4, int(size))}) if size == "64" else
        {"logits": answers(model, {"video": video("resnet", 1, 4, int(size))})["logits"]}
        for size in ("64", "160")
    }  # fmt: skip


def stlt(cfg: Any) -> dict[str, Any]:
    from modelling.hand_models import Stlt

    given = {name: torch.from_numpy(x) for name, x in cases.boxes(2, 5, 14).items()}
    names = {"boxes": "bboxes", "category": "class_labels", "score": "scores", "side": "sides", "state": "states"}
    batch = {names[name]: x for name, x in given.items()}
    batch["src_key_padding_mask_boxes"] = given["category"] == 0
    return answers(Stlt(config(cfg, MODEL_NAME="stlt", DATASET_TYPE="layout", NUM_FRAMES=6)), batch)


def mel() -> dict[str, Any]:
    import torchaudio.transforms as transforms
    from utils.data_utils import AudioAmplitudeToDB, AudioNormalize, AudioResize, extract_audio_segments

    spectrogram = transforms.MelSpectrogram(
        n_fft=1024, win_length=160, hop_length=80, center=True, pad_mode="reflect", power=2.0
    )
    samples = torch.from_numpy(cases.sound(32000))[None]
    windows = extract_audio_segments(samples, int(1.116 * 16000), [0, 9000, 16000, 31999])
    power = spectrogram(windows)
    seen = AudioNormalize()(AudioAmplitudeToDB()(AudioResize(spatial_size=(224, 224))(power[None])))[0]
    decibels = AudioAmplitudeToDB()(power)
    return {
        "shape": list(decibels.shape),
        "decibels": listed(decibels[:, ::9, ::17]),
        "mean": float(decibels.double().mean()),
        "seen": listed(seen[:, ::31, ::37]),
        "seen_mean": float(seen.double().mean()),
    }


def samplers() -> dict[str, Any]:
    from utils.samplers import GeneralSampler

    random.seed(0)
    np.random.seed(0)
    found: dict[str, Any] = {"uniform": [], "strided": []}
    settings = [("uniform", (n, 1, c)) for n, c in cases.UNIFORM] + [("strided", each) for each in cases.STRIDED]
    for kind, (number, stride, clips) in settings:
        own = {"NUM_FRAMES": number, "STRIDE": stride, "NUM_TEST_CLIPS": clips, "FRAME_UNIFORM": kind == "uniform"}
        for length in cases.LENGTHS:
            test = GeneralSampler(SimpleNamespace(**own))(length).tolist()
            draws = np.array([GeneralSampler(SimpleNamespace(**own), train=True)(length) for _ in range(300)])
            train = [draws.min(axis=0).tolist(), draws.max(axis=0).tolist()]
            found[kind].append({"length": length, "arguments": [number, stride, clips], "test": test, "train": train})
    return found


def metrics() -> dict[str, float]:
    from utils.calibration import _ECELoss
    from utils.evaluation import EvaluatorAccuracy

    logits = torch.from_numpy(2 * cases.numbers("metrics", 200, 3, 7))
    labels = torch.from_numpy(cases.integers("metrics", 7, 200))
    logits[torch.arange(200), :, labels] += 1
    accuracy = EvaluatorAccuracy(200)
    accuracy.process(logits, labels)
    return accuracy.evaluate() | {"ece": float(_ECELoss()(logits.mean(1), labels))}


def repaired() -> list[list[int]]:
    from utils.data_utils import fix_box

    return [fix_box(box, video_size=(40, 60)) for box in cases.pixel_boxes()]


if __name__ == "__main__":
    main(*sys.argv[1:])
