"""Settings of where and how a job is carried out: its run, its data, what it reserves."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmkd.config.base import Part, Positive, Section, Share, without_secrets


class Run(Section):
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
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """A checkpoint inside an epoch this often, beside the one after each validation; 0: none."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """The same in optimiser steps; 0: none."""
    progress_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How often a progress line is printed where the output is no terminal."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often the workers are started again after one died."""
    tracker: Literal["", "mlflow", "wandb"] = ""
    """Where figures go beside the run folder and Ray's metrics: MLflow (MLFLOW_TRACKING_URI says where) or Weights &
    Biases (WANDB_API_KEY or WANDB_MODE=offline); pip install 'mmkd[mlflow]' or 'mmkd[wandb]'."""
    profile: bool = False
    """Write RUN/profile: a trace of a few steps by torch's profiler for each worker, and Ray's timeline of all tasks;
    chrome://tracing and ui.perfetto.dev show both. Also as --profile."""
    ray_logs: bool = False
    """Show what Ray and its workers print, too."""
    dry_run: bool = False
    """Print what the job would do, and what it would reserve, and stop; also as --dry-run."""


class Data(Section):
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
    train_share: Part = 1.0
    """Use only this share of the train split, chosen by a hash of the clips' ids; a larger share holds a smaller."""
    labelled_share: Part = 1.0
    """Hide the labels of the other clips of the train split, chosen in the same way: students are distilled on them all
    the same, teachers leave them out."""
    max_broken_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The job fails when more than this share of the clips it read were broken."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Use only the first clips of each split, for trying things out; 0: all."""

    @model_validator(mode="after")
    def _folder(self) -> "Data":
        without_secrets("data", folder=self.folder)
        return self


class Resources(Section):
    """What a job reserves. The defaults fit two cores; docs/cluster.md has those of larger machines."""

    auto: bool = False
    """Measure for about 30 s what reading, teachers and student cost on the cluster, and choose workers, actors,
    readers, inline or not, threads, prefetch, the teachers' batch, and what each process reserves of CPUs and GPUs by
    it, instead of taking them from the settings: GPUs are used where there are any. The choice is kept in
    RUN/resources.yaml. Also as --resources auto."""
    inline: bool = False
    """In a training, each student worker reads its clips and asks the teachers itself, in its own process on CPUs, and
    there are no teacher actors and no reading tasks. Fastest where there are few cores a worker, with `ahead`; else
    data and teachers keep the student waiting."""
    ahead: Annotated[int, Field(ge=0)] = 0
    """Threads of an inline worker, or of a local run, that read clips and ask the teachers ahead of it, `prefetch`
    steps at most, on a core each, which cpus_per_worker should have room for; when the worker has nothing to train on
    it does the same."""
    workers: Positive = 1
    """Student workers (Ray Train, DDP)."""
    min_workers: Annotated[int, Field(ge=0)] = 0
    """Elastic training: begin, and go on, with as few as this many workers where there is no room for all of them, and
    take in more when there is. The global batch stays what it is. 0: all or none."""
    use_gpu: bool = False
    """A GPU for each student worker."""
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """GPUs that a worker reserves with use_gpu; below 1 it leaves the rest of one to teachers."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that a worker reserves."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads that a student worker trains with. 0: the machine's cores divided by its workers and, unless inline,
    teacher actors and a reader, or on a cluster of several nodes cpus_per_worker; less those of `ahead`."""
    accelerator_type: str = ""
    """Kind of accelerator the workers need; empty: any."""
    labels: dict[str, str] = {}
    """Labels of the nodes that the workers may run on, as {"mmkd/role": "student"}; empty: any."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Custom resources of Ray that a worker reserves, as {"student": 1}, of nodes that were started with them."""
    readers: Annotated[int, Field(ge=0)] = 0
    """Reading and decoding tasks at a time. 0: two; or none where teachers run on CPUs, whose actors then read for
    themselves, so that what only they see is not moved."""
    cpus_per_reader: Annotated[float, Field(gt=0)] = 0.25
    """CPUs that a reading task reserves."""
    reader_labels: dict[str, str] = {}
    """Labels of the nodes that reading tasks may run on; empty: any."""
    prefetch: Positive = 4
    """Steps that each worker fetches, or makes, ahead; in whole blocks where they travel."""
    steps_per_block: Annotated[int, Field(ge=0)] = 0
    """Steps whose clips travel to a worker together, as one block, at most. 0: as many as have about 16 MB of frames,
    or 32 clips up to 64 MB; for more than two readers or actors in proportion, up to 1 GB. An epoch has eight blocks a
    worker at least, and two a reader or actor, each of which has room for ten in the shared memory of its node."""
    no_progress_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """The job fails when no block came through for so long; it must be longer than any pause of the student."""
    object_store_mb: Positive = 1000
    """Shared memory for blocks under way, MB, of a Ray started by the job itself."""
    num_cpus: Annotated[int, Field(ge=0)] = 0
    """CPUs of a Ray started by the job itself; 0: those of the machine. A running cluster keeps its own count."""
    num_gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a Ray started by the job itself; 0: those of the machine."""
    wait_for_resources: bool = False
    """Wait until the cluster has what the job reserves, free of other jobs, instead of being refused where it has not;
    also as --wait-for-resources."""

    @property
    def reserved_threads(self) -> int:
        """That a worker may train with on the CPUs that it reserves, less those ahead of it."""
        return max(1, int(self.cpus_per_worker) - self.ahead)

    @property
    def reading_tasks(self) -> int:
        """At a time, where there are any."""
        return self.readers or 2

    @model_validator(mode="after")
    def _elastic(self) -> "Resources":
        if self.min_workers > self.workers:
            raise ValueError(
                f"resources.min_workers {self.min_workers} is more than resources.workers {self.workers}, the most"
            )
        if self.gpus_per_worker <= 0.5 and self.workers > 1:
            raise ValueError(
                f"resources.gpus_per_worker {self.gpus_per_worker:g} would put two workers on one GPU, which NCCL "
                "refuses; it goes with resources.workers 1"
            )
        if self.min_workers and self.labels:
            raise ValueError(
                "resources.min_workers does not go with resources.labels: Ray counts the workers that it has room for "
                "without looking at labels. Say which nodes by resources.accelerator_type or resources.custom"
            )
        return self
