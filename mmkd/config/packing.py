"""Settings of packing: where clips come from, and how shards are written."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmkd.config.base import Positive, Section, Share, without_secrets


class Source(Section):
    """Where `pack` takes clips from; docs/data.md says what each kind expects where."""

    kind: Literal["tabletop", "folder", "epic", "ssv2", "reference"] = "tabletop"
    """tabletop: rendered clips of a hand acting on objects; folder: anybody's videos; epic: EPIC-KITCHENS-100 or 55;
    ssv2: Something-Something v2 and Something-Else; reference: the HDF5 and JSON packs of the paper's authors."""
    root: str = ""
    """folder, epic, ssv2, reference: folder of the videos, frames or packs. This and all paths of a source are
    absolute, or s3:// or gs:// ones."""
    annotations: str = ""
    """epic, ssv2, reference: folder of the annotation tables; folder: a CSV or Parquet manifest (empty: a folder per
    class)."""
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
    Something-Else, or a folder of such; folder: a JSON Lines or Parquet file, or a folder of such; reference: its
    detections (JSON or HDF5)."""
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
        tables = ("train_table", "val_table", "test_table", "classes")
        folders = ("root", "annotations", "boxes", "audio", "flow")
        without_secrets("source", **{name: getattr(self, name) for name in (*folders, *tables)})
        for name in folders:
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


class Pack(Section):
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

    def kept_rate(self, rate: float) -> float:
        """Frames per second that are kept of a recording of that rate."""
        return min(self.fps, rate) if self.fps else rate
