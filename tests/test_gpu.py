"""On a GPU, where there is one: the answers, the losses and the resumed runs are those of CPUs, to rounding."""

import numpy as np
import pytest
import torch

from mmkd.evaluation.split import split_logits
from mmkd.jobs import distill
from mmkd.models import load_model
from mmkd.runs import read_epochs, read_metrics
from mmkd.teachers import Ensemble
from mmkd.upload import uploaded
from tests.small import HEADS, small_settings
from tests.test_teachers import block_of, folders

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

ON_GPU = {"use_gpu": True, "gpus_per_worker": 0.5}
ROUNDING = {"fp32": 0.02, "fp16": 0.03, "bf16": 0.1}
"""As cuDNN rounds the factors of convolutions to TF32 in fp32, too."""


def settings_of(home, name, precision="fp32", resources=ON_GPU, local=True, **sections):
    """Without dropout, whose draws are a device's own."""
    student = {"options": {"channels": [4, 8], "dropout": 0.0}}
    optim = {"precision": precision, "epochs": 2} | sections.pop("optim", {})
    teachers = {"num_gpus": 0.5 if resources else 0.0, "precision": precision} | sections.pop("teachers", {})
    run = {"name": name, "local": local}
    return small_settings(
        home, run=run, student=student, optim=optim, teachers=teachers, resources=resources, **sections
    )


def losses(home, name):
    return [row["loss"] for row in read_metrics(home / "runs" / name) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def on_cpus(home):
    """Losses of each step."""
    distill(settings_of(home, "on-cpus", resources={"threads": 1}))
    return losses(home, "on-cpus")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_teachers_answer_as_on_cpus(home, precision):
    block, rounding = block_of(home, [4, 5, 6, 7, 8]), ROUNDING[precision]
    theirs = Ensemble(folders(home), HEADS)(block)
    ours = Ensemble(folders(home), HEADS, device="cuda", precision=precision, batch_size=2)(block)
    assert ours["teacher_present"].all()
    for head in HEADS:
        name = f"teacher_logits/{head}"
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rounding, atol=rounding)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_run_in_one_process_has_the_losses_of_one_on_cpus(home, on_cpus, precision):
    distill(settings_of(home, f"local-{precision}", precision))
    assert losses(home, f"local-{precision}") == pytest.approx(on_cpus, rel=ROUNDING[precision])


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"optim": {"compile": True}},
        {"optim": {"accumulate": 2, "ema": 0.9, "checkpoint_activations": True}},
        {"resources": {**ON_GPU, "ahead": 2}},
    ],
    ids=["compiled", "accumulated", "ahead"],
)
def test_so_has_one_with(home, on_cpus, more, request):
    name = f"with-{request.node.callspec.id}"
    distill(settings_of(home, name, **more))
    first = len(on_cpus) // 2 if "accumulate" in more.get("optim", {}) else len(on_cpus)
    assert losses(home, name)[:first] == pytest.approx(on_cpus[:first], rel=0.05)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_on_ray_shares_the_gpu_with_its_teachers_and_goes_on(home, on_cpus):
    distill(settings_of(home, "on-ray", local=False))
    run = home / "runs" / "on-ray"
    assert losses(home, "on-ray") == pytest.approx(on_cpus, rel=ROUNDING["fp32"])
    val = read_epochs(run)[-1]["val"]
    last = max((run / "checkpoints").glob("checkpoint_*"))
    (last / "network.safetensors").write_bytes(b"torn")
    (run / "result.json").unlink()
    distill(settings_of(home, "on-ray", local=False))
    assert losses(home, "on-ray") == pytest.approx(on_cpus, rel=ROUNDING["fp32"])
    assert read_epochs(run)[-1]["val"]["verb"]["accuracy"] == pytest.approx(val["verb"]["accuracy"], abs=0.2)


@pytest.mark.slow
def test_a_split_is_answered_as_on_cpus(home):
    names = [str(home / "models" / name) for name in ("rgb", "flow", "boxes")]
    there = small_settings(home, run={"local": True}, teachers={"num_gpus": 1.0, "precision": "bf16"})
    ours, theirs = (split_logits(each, names, "val", grids=[(1, 1)]) for each in (there, small_settings(home)))
    for head in HEADS:
        np.testing.assert_allclose(ours.averaged()[head], theirs.averaged()[head], atol=ROUNDING["bf16"])


@pytest.mark.parametrize("modality", ["rgb", "boxes"])
def test_blocks_come_in_order_with_what_the_network_sees_on_the_device(home, modality):
    blocks = [block_of(home, [clip, clip + 1]) for clip in range(0, 12, 2)]
    came = list(uploaded(iter(blocks), modality, torch.device("cuda")))
    assert [block["clip"].tolist() for block in came] == [block["clip"].tolist() for block in blocks]
    for block, before in zip(came, blocks, strict=True):
        names = [name for name in before if name.split("/")[0] == modality]
        assert names and all(block[name].is_cuda for name in names)
        assert all(np.array_equal(block[name].cpu().numpy(), before[name]) for name in names)


def test_what_fails_in_fetching_a_block_is_raised_in_its_turn(home):
    def blocks():
        yield block_of(home, [1])
        raise OSError("the disk is gone")

    came = uploaded(blocks(), "rgb", torch.device("cuda"))
    assert next(came)["clip"].tolist() == [1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(came)


def test_a_model_that_was_trained_there_is_read_on_cpus(home):
    distill(settings_of(home, "kept", optim={"epochs": 1}))
    model = load_model(home / "runs" / "kept" / "best")
    with torch.inference_mode():
        assert all(x.isfinite().all() for x in model(torch.from_numpy(block_of(home, [1])["rgb"])).values())
