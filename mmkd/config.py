"""Settings: one typed tree for every job, saved in the run folder. Each field's docstring is its help text."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Modality = Literal["rgb", "flow", "audio", "boxes"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class SettingsError(ValueError):
    """A setting that cannot be; the message names the field."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Run(_Section):
    """Where a run lives and how it is carried out."""

    name: str = ""
    """Name of the run folder under HOME/runs; empty: made from the job and the data set."""
    home: str = ""
    """Absolute root of data, runs and models; empty: $MMKD_HOME, else ~/mmkd. Shared by all nodes of a cluster."""
    seed: int = 0
    """Order of the clips and initialisation (run_seed). The views have a seed of their own."""
    local: bool = False
    """Run the same plan in this one process, without Ray: for a debugger, and as the oracle in tests."""
    log_every: Positive = 10
    """Optimiser steps between two lines of metrics.jsonl."""
    trace: bool = False
    """Write which clips each worker saw in each step to trace-RANK.jsonl, to check a run by."""
    keep_checkpoints: Positive = 2
    """Checkpoints kept, besides the best."""
    progress_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How often a progress line is printed where the output is no terminal."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often the workers are started again after one died."""
    ray_logs: bool = False
    """Show what Ray and its workers print, too."""
    dry_run: bool = False
    """Print what the job would do, and what it would reserve, and stop; also as --dry-run."""


class Data(_Section):
    """The data set and its splits."""

    folder: str = ""
    """Data set folder, also an s3:// or gs:// one; relative ones are under HOME/data; empty: named as source.kind, by
    default tabletop, which is made when missing."""
    train: str = "train"
    """Split that students learn on."""
    val: str = "val"
    """Split for choosing: best epoch, sweeps."""
    test: str = "test"
    """Split for reporting only."""
    weigh_share: Share = 0.1
    """Share of the train split held out from teachers, to weigh and judge them."""
    weigh_seed: int = 0
    """Which clips are held out; teachers and students must agree on it."""
    max_broken_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The job fails when more than this share of the clips it read were broken."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Use only the first clips of each split, for trying things out; 0: all."""


class Views(_Section):
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

    @model_validator(mode="after")
    def _ordered(self) -> "Views":
        if not 1.0 <= self.scale[0] <= self.scale[1]:
            raise ValueError(f"views.scale is {self.scale}; it must be two numbers from 1 up, the smaller first")
        return self


class Network(_Section):
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


class Teachers(_Section):
    """The ensemble that teaches."""

    folders: list[str] = []
    """Model folders; relative ones are under HOME/models; empty: the tabletop teachers shipped with mmkd."""
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
    threads: Positive = 1
    """Threads per actor."""
    batch_size: Positive = 32
    """Clips that a teacher is given at once."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Autocast on GPU; on CPU teachers run in fp32."""
    retrain: bool = False
    """Train the built-in teachers anew on this data set first, instead of taking the shipped ones."""


class Loss(_Section):
    """distill_weight * KD + label_weight * CE; see docs/method.md."""

    kind: Literal["kl", "soft_ce", "mse", "dkd", "standardized_kl", "hard"] = "kl"
    """The distillation term: kl, the paper's; soft_ce, cross-entropy with the teachers' distribution; mse, of logits;
    dkd, decoupled; standardized_kl, of standardised logits; hard, cross-entropy with the teachers' class."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Softens teachers' and student's distributions in the distillation term."""
    distill_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distillation term; 0 starts no teachers."""
    label_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy with the labels."""
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
        for name in ("head_weights", "distill_head_weights"):
            if any(weight < 0 for weight in getattr(self, name).values()):
                raise ValueError(f"loss.{name} has a negative weight")
        if self.feature_weight and not self.distill_weight:
            raise ValueError("loss.feature_weight needs teachers, which loss.distill_weight 0 does not start")
        return self


class Optim(_Section):
    """Optimisation, with warm-up and decay over the plan's true number of steps."""

    name: str = "adamw"
    """Optimiser, by timm's names (adamw, sgd, lamb, lion, ...)."""

    epochs: Positive = 9
    """Passes over the train split."""
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


class Resources(_Section):
    """What a job reserves. The defaults fit two cores; docs/cluster.md has those of larger machines."""

    workers: Positive = 1
    """Student workers (Ray Train, DDP)."""
    use_gpu: bool = False
    """One GPU per student worker."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that a worker reserves."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads per student worker; 0: the machine's cores divided by its workers, teacher actors and a reader."""
    accelerator_type: str = ""
    """Kind of accelerator the workers need; empty: any."""
    readers: Positive = 2
    """Reading and decoding tasks at a time."""
    cpus_per_reader: Annotated[float, Field(gt=0)] = 0.25
    """CPUs that a reading task reserves."""
    prefetch: Positive = 4
    """Blocks that each worker fetches ahead."""
    object_store_mb: Positive = 1000
    """Shared memory for blocks under way, MB, of a Ray started by the job itself."""
    num_cpus: Annotated[int, Field(ge=0)] = 0
    """CPUs of a Ray started by the job itself; 0: those of the machine. A running cluster keeps its own count."""
    num_gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a Ray started by the job itself; 0: those of the machine."""


class Source(_Section):
    """Where `pack` takes clips from; docs/data.md says what each kind expects where."""

    kind: Literal["tabletop", "folder", "epic", "ssv2", "reference"] = "tabletop"
    """tabletop: rendered clips of a hand acting on objects; folder: anybody's videos; epic: EPIC-KITCHENS-100 or 55;
    ssv2: Something-Something v2 and Something-Else; reference: the HDF5 and JSON packs of the paper's authors."""
    root: str = ""
    """folder, epic, ssv2, reference: folder of the videos, frames or packs. This and all paths of a source are
    absolute, or s3:// or gs:// ones."""
    annotations: str = ""
    """epic, ssv2: folder of the annotation tables; folder: a CSV or Parquet manifest (empty: a folder per class)."""
    train_table: str = ""
    """epic, ssv2, reference: table of the train split, relative ones are in `annotations`; empty: the official name."""
    val_table: str = ""
    """The same for the val split."""
    test_table: str = ""
    """The same for the test split."""
    classes: str = ""
    """Classes: for ssv2 and reference the labels JSON, relative ones are in `annotations`, empty: the official name;
    for folder a JSON file of head to class names, empty: those that occur."""
    boxes: str = ""
    """Hand and object boxes. epic: folder of the hand-object .pkl files, empty: root; ssv2: JSON file of
    Something-Else, or a folder of such; folder: a JSON Lines or Parquet file; reference: its detections (JSON or
    HDF5)."""
    audio: str = ""
    """Sound that is not in the videos. epic: a folder of VIDEO.wav, or an HDF5 pack; reference: its HDF5 pack."""
    flow: str = ""
    """Ready-made flow. epic: folder of PXX/flow_frames, empty: root; reference: its HDF5 pack."""
    version: Literal[100, 55] = 100
    """epic, reference: which EPIC-KITCHENS the tables are of."""
    frame_rate: Annotated[float, Field(ge=0)] = 0.0
    """Frames per second where the source has numbered frames instead of videos; 0: the official rate, 12 for ssv2."""
    val_share: Share = 0.1
    """folder: share of the clips that become split val where nothing else names splits."""
    test_share: Share = 0.1
    """folder: the same for split test."""
    seed: int = 0
    """tabletop: which clips; the same seed gives the same ones. folder: which clips val_share and test_share take."""
    train: Annotated[int, Field(ge=0)] = 2000
    """tabletop: clips in the train split."""
    val: Annotated[int, Field(ge=0)] = 500
    """tabletop: clips in the val split."""
    test: Annotated[int, Field(ge=0)] = 1000
    """tabletop: clips in the test split."""
    unseen: Annotated[int, Field(ge=0)] = 0
    """tabletop: clips in the unseen split: tables and object instances that the others never show."""
    width: Positive = 96
    """tabletop: width of a frame, pixels."""
    height: Positive = 72
    """tabletop: height of a frame, pixels."""
    frames: Annotated[int, Field(ge=2)] = 16
    """tabletop: frames per clip."""

    @model_validator(mode="after")
    def _paths(self) -> "Source":
        for name in ("root", "annotations", "boxes", "audio", "flow"):
            path = str(getattr(self, name))
            if path.startswith("~"):
                path = str(Path(path).expanduser())
                self.__dict__[name] = path
            if path and "://" not in path and not path.startswith("/"):
                raise ValueError(
                    f"source.{name} is {path!r}, which is relative; a job's working directory is a copy, so give an "
                    f"absolute path (perhaps {Path(path).absolute()})"
                )
        if self.kind != "tabletop" and not self.root:
            raise ValueError(f"source.root is empty; source.kind {self.kind} needs the folder of its files")
        return self


class Pack(_Section):
    """How shards are written."""

    check: str = ""
    """Instead of packing, look through this data set folder and write contact_sheet.html; also as --check FOLDER.
    Relative ones are under HOME/data."""
    short_side: Annotated[int, Field(ge=0)] = 256
    """Larger frames are scaled down to this short side, pixels; 0: none are."""
    fps: Annotated[float, Field(ge=0)] = 0.0
    """Frames per second that are kept of recordings that have more; 0: all."""
    rgb_codec: Literal["jpeg", "h264"] = "jpeg"
    """jpeg: each frame by itself; h264: a short video a clip, for a fraction of the bytes and more work for readers."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality of RGB frames. JPEGs that need not be scaled are kept as they are."""
    crf: Annotated[int, Field(ge=0, le=51)] = 20
    """h264: x264's constant rate factor; lower is better and larger."""
    gop: Positive = 8
    """h264: frames from one key frame to the next."""
    flow: Literal["dis", "dis_fast", "farneback", "tvl1", "raft_small", "raft_large", "none"] = "dis"
    """How flow is computed where the source has none; none: not at all."""
    flow_weights: str = ""
    """raft_small, raft_large: file of torchvision's weights."""
    flow_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality of flow frames, which are 4:4:4."""
    flow_bound: Annotated[float, Field(ge=0)] = 0.0
    """Computed flow of this many pixels, and more, becomes 0 or 255; 0: 8 for tabletop, 20 for real video."""
    detector: str = ""
    """Detector of torchvision (e.g. fasterrcnn_resnet50_fpn) for boxes where the source has none; empty: none."""
    detector_weights: str = ""
    """File of its weights."""
    box_score: Share = 0.0
    """Boxes below this score are not kept. EPIC's are saved at low thresholds: 0.5 is usual."""
    sample_rate: Annotated[int, Field(ge=0)] = 24000
    """Sound with more samples per second is resampled to this many; 0: none is."""
    clips_per_shard: Positive = 250
    """Clips per Parquet file, at most, but for recordings that have more of them; small splits have smaller files."""
    row_group: Positive = 4
    """Rows per row group: the least that a reader fetches."""
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The job fails when more than this share of the clips could not be packed."""
    retry: bool = False
    """Of an unfinished packing, pack shards again that had rejects, after files were repaired."""


class Settings(_Section):
    """All settings; every job takes the same tree and reads what it needs."""

    run: Run = Run()
    data: Data = Data()
    views: Views = Views()
    student: Network = Network()
    teacher: Network = Network()
    teachers: Teachers = Teachers()
    loss: Loss = Loss()
    optim: Optim = Optim()
    resources: Resources = Resources()
    source: Source = Source()
    pack: Pack = Pack()

    @property
    def home(self) -> Path:
        """Root of data, runs and models."""
        home = Path(self.run.home or os.environ.get("MMKD_HOME") or Path.home() / "mmkd").expanduser()
        if not home.is_absolute():
            raise SettingsError(
                f"run.home is {str(home)!r}, which is relative; a job's working directory is a copy, so give an "
                "absolute path (run.home, or MMKD_HOME)."
            )
        return home

    def data_folder(self) -> str:
        """Path of the data set, local or remote."""
        return self.below_data(self.data.folder or self.source.kind)

    def below_data(self, folder: str) -> str:
        """A folder by its name under HOME/data, or by its own path, local or remote."""
        return folder if "://" in folder else str(self.home / "data" / Path(folder).expanduser())

    def save(self, path: Path) -> None:
        """Write the resolved settings, complete, so that they can be given to --config again."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))
