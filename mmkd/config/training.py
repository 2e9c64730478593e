"""Settings of what is trained: views, networks, teachers, loss and optimisation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mmkd.config.base import Modality, Positive, Section, SettingsError, Share


class Views(Section):
    """What a network sees of a clip. One view is seen by the student and by every teacher."""

    seed: int = 0
    """Frame indices, crops and jitter (view_seed)."""
    distinct: Annotated[int, Field(ge=0)] = 0
    """Number of distinct views per clip (epoch e shows view e modulo this); 0: a new one each epoch."""
    frames: Positive = 8
    """Frames per view."""
    sampling: Literal["uniform", "strided"] = "uniform"
    """uniform: one frame from each of equal segments; strided: a run of frames, `stride` apart."""
    stride: Positive = 8
    """Frames between two of a strided view."""
    size: Positive = 64
    """Height and width of a view, pixels."""
    scale: tuple[float, float] = (1.0, 1.3)
    """Training: the short side is resized to size times a factor from this range, then a square is cut out."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Training: brightness, contrast and saturation each change by up to this factor, one draw a clip; RGB only."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Training: hue turns by up to this share of the circle."""
    flip: bool = False
    """Training: mirror half of the views. Leave off where left and right are part of a label."""
    jitter_flow: bool = False
    """Training: jitter flow frames as well, as the authors' code can."""
    randaugment: Annotated[int, Field(ge=0)] = 0
    """Training: RandAugment operations on the RGB of each view; only those that move no pixel. 0: off."""
    randaugment_strength: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How far each of them goes."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Training: blend each clip with another one, shares drawn from Beta(this, this); 0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Training: paste a rectangle of another clip, areas drawn from Beta(this, this); 0: off. With mixup: either."""
    mix_probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the views that mixup and cutmix change."""
    repeats: Positive = 1
    """Training: views of each clip in a batch, from one decoding; an epoch has as many times more steps."""
    test_clips: Positive = 1
    """Validation and test: views in time per clip; logits are averaged over all views."""
    test_crops: Literal[1, 3] = 1
    """Validation and test: views in space: the centre, or three along the long side."""
    boxes: Positive = 8
    """Boxes per frame, the best by score."""
    box_score: Share = 0.0
    """Boxes below this score are left out."""
    whole_frame_boxes: bool = False
    """Leave boxes where they are in the whole frame instead of moving them with the crop, as the paper does."""
    audio_seconds: Annotated[float, Field(gt=0)] = 0.3
    """Sound around each sampled frame."""
    sample_rate: Annotated[int, Field(ge=0)] = 0
    """Sound is resampled to this rate, samples per second; 0: that of the data set."""

    @property
    def test_grid(self) -> tuple[int, int]:
        """Views in time by views in space, for validation and test."""
        return self.test_clips, self.test_crops

    @model_validator(mode="after")
    def _ordered(self) -> "Views":
        if not 1.0 <= self.scale[0] <= self.scale[1]:
            raise ValueError(f"views.scale is {self.scale}; it must be two numbers from 1 up, the smaller first")
        return self


GEOMETRY = ("frames", "sampling", "stride", "size", "boxes", "audio_seconds", "sample_rate")
"""Settings of the views that a model depends on: what `input` of its model.json may say."""


class Network(Section):
    """A network to train."""

    arch: str = ""
    """Architecture, see mmkd.models.create_model; empty: the small default of the modality."""
    modality: Modality = "rgb"
    """What the network sees. A student sees rgb."""
    options: dict[str, Any] = {}
    """Options of the architecture, as {"name": value}; YAML is the better place for them."""
    init: str = ""
    """Model folder to start from, relative ones under HOME/models; classes that it does not know start anew."""
    weights: str = ""
    """Weights of the backbone to start from: a file, relative ones under HOME/models, or `default` for those of timm or
    torchvision, which are downloaded."""
    freeze_backbone: bool = False
    """Train the classifiers only."""


POOL_FIELDS = (
    "actors",
    "num_cpus",
    "num_gpus",
    "accelerator_type",
    "labels",
    "threads",
    "batch_size",
    "precision",
)
"""What the pools of teachers.pools may have otherwise than the section."""


class Teachers(Section):
    """The ensemble that teaches."""

    folders: list[str] = []
    """Model folders or run folders; relative ones are under HOME/models or HOME/runs; empty: the tabletop teachers
    shipped with mmkd."""
    weighting: Literal["held_out", "uniform", "per_sample"] = "held_out"
    """Softmin of each teacher's cross-entropy, per head: on `weigh` (held_out), or for each clip with its own label
    (per_sample, which lets the label into the target); uniform: 1/K."""
    ensemble: Literal["logits", "probabilities"] = "logits"
    """What is averaged over teachers: raw logits, as in the paper, or probabilities at the loss's temperature."""
    gamma: Annotated[float, Field(gt=0)] = 0.5
    """Temperature of the softmin; large is near uniform, small near the best teacher alone."""
    drop_near_chance: bool = True
    """Leave a teacher out of a head on which it is no better than chance on `weigh`."""
    actors: Positive = 1
    """Teacher actors; each holds the whole ensemble."""
    num_cpus: Annotated[float, Field(ge=0)] = 0.5
    """CPUs that an actor reserves."""
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that an actor reserves; a share of one is possible. Above 0 the teachers run on cuda."""
    accelerator_type: str = ""
    """Kind of accelerator the actors need, e.g. T4 or L4 (Ray's names); empty: any."""
    labels: dict[str, str] = {}
    """Labels of the nodes that the actors may run on, as {"mmkd/role": "teacher"}; empty: any."""
    pools: dict[str, Any] = {}
    """Several pools of actors one after the other, instead of one, each with some of the teachers, as
    {"large": {"teachers": ["rgb"], "num_gpus": 1, "accelerator_type": "A10G"}, "small": {"teachers": ["audio"]}}.
    What a pool does not say (actors, num_cpus, num_gpus, accelerator_type, labels, threads, batch_size, precision) is
    as in this section. YAML is the better place."""
    threads: Positive = 1
    """Threads per actor."""
    batch_size: Positive = 32
    """Clips that a teacher is given at once."""
    timeout_seconds: Annotated[float, Field(ge=0)] = 600.0
    """An actor that takes longer for its share of a step (on a GPU, of some) is ended, and started again; the job fails
    when that happens to one three times. 0: no limit. With resources.inline it is a worker that is ended, which counts
    for run.max_restarts."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Autocast on GPU; on CPU teachers run in fp32."""
    mode: Literal["live", "record", "replay", "auto"] = "live"
    """Where their answers come from. live: the teachers run beside the student; record: they do, and their answers are
    kept in a bank; replay: from a bank alone, no teacher is started; auto: from the bank where it has them, the rest
    from live teachers and kept."""
    bank: str = ""
    """Folder of the bank, relative ones are under HOME/banks; empty: named after the data set and a hash of what its
    answers depend on (teachers, data, views)."""
    bank_part: Annotated[str, Field(pattern=r"^[1-9]\d*/[1-9]\d*$")] = "1/1"
    """record job: which share of the clips this job asks about, as 2/4; several jobs fill one bank side by side."""
    if_bank_fails: Literal["stop", "go_on"] = "stop"
    """What a training does when answers cannot be kept, e.g. on a full disk: stop, or go on without."""
    retrain: bool = False
    """Train the built-in teachers anew on this data set first, instead of taking the shipped ones."""

    @model_validator(mode="after")
    def _pools(self) -> "Teachers":
        known = ("teachers", *POOL_FIELDS)
        for name, pool in self.pools.items():
            if not isinstance(pool, dict):
                raise ValueError(f"teachers.pools.{name} is {pool!r}; it must say which teachers it has, and what else")
            if unknown := sorted(set(pool) - set(known)):
                raise ValueError(f"teachers.pools.{name} has {', '.join(unknown)}; a pool may have {', '.join(known)}")
            if not pool.get("teachers"):
                raise ValueError(f"teachers.pools.{name} names no teachers")
            Teachers.model_validate({field: pool[field] for field in POOL_FIELDS if field in pool})
        return self

    def each_pool(self) -> "dict[str, Teachers]":
        """Name of each pool of actors to its settings."""
        if not self.pools:
            return {"teachers": self}
        return {
            name: self.model_copy(update={field: pool[field] for field in POOL_FIELDS if field in pool} | {"pools": {}})
            for name, pool in self.pools.items()
        }

    def members(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Name of each pool to the numbers of its teachers.

        Args:
            names: of all teachers, in order.

        Raises:
            SettingsError: a pool has a teacher that there is not, or a teacher is in no pool or in several.
        """
        if not self.pools:
            return {"teachers": list(range(len(names)))}
        placed = [name for pool in self.pools.values() for name in pool["teachers"]]
        if sorted(placed) != sorted(names):
            raise SettingsError(
                f"teachers.pools has {', '.join(placed)}; each teacher must be in one pool, and they are "
                f"{', '.join(names)}."
            )
        return {name: [names.index(each) for each in pool["teachers"]] for name, pool in self.pools.items()}

    @property
    def only_in_bank(self) -> bool:
        """The teachers are those of a bank, wherever their models are."""
        return self.mode == "replay" and bool(self.bank) and not self.folders


class Loss(Section):
    """distill_weight * KD + label_weight * CE; see docs/method.md."""

    kind: Literal["kl", "soft_ce", "mse", "dkd", "standardized_kl", "hard"] = "kl"
    """The distillation term: kl, the paper's; soft_ce, cross-entropy with the teachers' distribution; mse, of logits;
    dkd, decoupled; standardized_kl, of standardised logits; hard, cross-entropy with the teachers' class."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Softens teachers' and student's distributions in the distillation term."""
    temperature_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the temperature goes from temperature to temperature_end over the training."""
    temperature_end: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the last step, where its schedule is not constant."""
    distill_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distillation term; 0, with no schedule that raises it, starts no teachers."""
    label_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy with the labels."""
    weight_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How both weights go to their ends over the training."""
    distill_weight_end: Annotated[float, Field(ge=0)] = 0.0
    """distill_weight of the last step, where the schedule is not constant."""
    label_weight_end: Annotated[float, Field(ge=0)] = 1.0
    """label_weight of the last step, where the schedule is not constant."""
    head_weights: dict[str, float] = {}
    """Weight of each head in the label term, as {"verb": 1.0}; a head with 0 is left out of both terms."""
    distill_head_weights: dict[str, float] = {}
    """Weight of each head in the distillation term; the paper has none."""
    label_smoothing: Share = 0.0
    """Share of the label term's target that is spread evenly over all classes."""
    dkd_alpha: Annotated[float, Field(ge=0)] = 1.0
    """dkd: weight of the labelled class against the rest."""
    dkd_beta: Annotated[float, Field(ge=0)] = 8.0
    """dkd: weight of the distribution over the other classes."""
    feature_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a third term: the student's features, through a linear projection, against a teacher's. 0: none."""
    feature_kind: Literal["mse", "cosine"] = "mse"
    """mse: mean squared difference; cosine: one minus the cosine."""
    feature_teacher: str = "rgb"
    """Which teacher, by the name in the table of teachers."""
    feature_teacher_layer: str = "backbone"
    """Module of the teacher whose output is taken, averaged over time and space."""
    feature_layer: str = "backbone"
    """Module of the student, likewise."""

    @model_validator(mode="after")
    def _something(self) -> "Loss":
        if self.distill_weight == 0 and self.label_weight == 0:
            raise ValueError("loss.distill_weight and loss.label_weight are both 0: there is nothing to learn from")
        if self.weight_schedule != "constant" and self.distill_weight_end == 0 and self.label_weight_end == 0:
            raise ValueError(
                "loss.distill_weight_end and loss.label_weight_end are both 0: the last step has nothing to learn from"
            )
        for name in ("head_weights", "distill_head_weights"):
            if any(weight < 0 for weight in getattr(self, name).values()):
                raise ValueError(f"loss.{name} has a negative weight")
        if self.feature_weight and not self.distils:
            raise ValueError("loss.feature_weight needs teachers, which loss.distill_weight 0 does not start")
        return self

    @property
    def distils(self) -> bool:
        """The distillation term has a weight at some time, so there are teachers."""
        return self.distill_weight > 0 or (self.weight_schedule != "constant" and self.distill_weight_end > 0)

    def labels_only(self) -> "Loss":
        """The loss of a baseline and of a teacher: the same without anything that needs teachers."""
        alone = {"distill_weight": 0.0, "label_weight": 1.0, "weight_schedule": "constant", "feature_weight": 0.0}
        return self.model_copy(update=alone)


class Optim(Section):
    """Optimisation, with warm-up and decay over the plan's true number of steps."""

    name: str = "adamw"
    """Optimiser, by timm's names (adamw, sgd, lamb, lion, ...)."""

    epochs: Positive = 9
    """Passes over the train split."""
    validate_every: Positive = 1
    """Epochs from one validation, and checkpoint, to the next."""
    batch_size: Positive = 32
    """Clips per step over all workers; a worker's share is this divided by their number, rounded up."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Weight decay; not on norms and biases (timm's parameter groups)."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Length of the linear warm-up."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """Decay to zero after the warm-up."""
    clip_norm: Annotated[float, Field(ge=0)] = 5.0
    """Gradients are clipped to this norm; 0: not."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Autocast on GPU (fp16 with loss scaling); on CPU training is fp32."""
    accumulate: Positive = 1
    """Parts that a worker's share of a batch is computed in, one after the other, to need less memory."""
    ema: Share = 0.0
    """Decay of an exponential moving average of the weights, which is then what is validated and kept; 0: none."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each layer to the one before it."""
    checkpoint_activations: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """torch.compile the network."""
