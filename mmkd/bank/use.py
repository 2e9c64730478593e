"""A bank in a training: what it answers of a unit of the plan, and what it is given to keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmkd.bank.rows import Rows, take, view_parameters
from mmkd.bank.store import Bank, BankWriter, cached_bank, select_teachers
from mmkd.config import Views
from mmkd.plan import PADDING, Clips
from mmkd.reader import PADDED, REAL, Block
from mmkd.shards import Manifest


@dataclass(frozen=True)
class BankUse:
    """How a training uses a bank.

    Attributes:
        mode: record, replay or auto; see settings teachers.mode.
        columns: of the training's teachers among the bank's.
        complete: the bank holds all that the training asks for, so that no teacher is started.
        state: of the bank when it was chosen.
    """

    folder: str
    mode: str
    columns: tuple[int, ...]
    complete: bool = False
    state: str = ""

    @property
    def reads(self) -> bool:
        return self.mode in ("replay", "auto")

    @property
    def writes(self) -> bool:
        return self.mode == "record" or (self.mode == "auto" and not self.complete)


class NotInBankError(ValueError):
    """A bank that has to answer lacks an answer, or holds a damaged one."""


def look_up(use: BankUse, views: Views, manifest: Manifest, clips: Clips, numbers: Clips) -> Block:
    """What the bank knows of the rows of a unit.

    Args:
        clips, numbers: of the rows, PADDING where there is none; and their view numbers.

    Returns:
        `banked` bool [rows], the bank answers for the row; `banked_status` int8 [rows], the row's status in the reader
        that the teachers were fed by; `teacher_present` bool [rows, teachers]; `teacher_logits/HEAD` float16
        [rows, teachers, classes].

    Raises:
        NotInBankError: no teacher is live and a row has no sound answer.
    """
    bank = cached_bank(use.folder, use.state)
    real = clips != PADDING
    with bank.lock:
        known = real & bank.has(clips, numbers)
        if not known[real].all():
            bank.refresh()
            known = real & bank.has(clips, numbers)
        at = np.flatnonzero(known)
        rows, sound = bank.read(clips[at], numbers[at])
    expected = view_parameters(bank.layout, views, manifest, clips[at], numbers[at])
    drawn = _same(rows["parameters"], expected)
    if (use.mode == "replay" or use.complete) and not (known[real].all() and sound.all() and drawn.all()):
        raise NotInBankError(_why(use, manifest, clips, numbers, known, at[~sound], at[sound & ~drawn]))
    good = sound & drawn
    known[at[~good]] = False
    return _columns(bank, use.columns, take(rows, good), at[good], len(clips))


def _same(stored: NDArray, drawn: NDArray) -> NDArray[np.bool_]:
    width = stored.dtype.itemsize
    raw = (np.frombuffer(x.tobytes(), np.uint8).reshape(-1, width) for x in (stored, drawn))
    return (next(raw) == next(raw)).all(axis=1)


def _columns(bank: Bank, teachers: Sequence[int], rows: Rows, at: NDArray[np.int64], count: int) -> Block:
    rows = select_teachers(rows, teachers)
    banked = np.zeros(count, bool)
    banked[at] = True
    out: Block = {"banked": banked, "banked_status": np.full(count, PADDED, np.int8)}
    out["teacher_present"] = np.zeros((count, len(teachers)), bool)
    out["banked_status"][at], out["teacher_present"][at] = rows["status"], rows["present"]
    for head, classes in bank.layout.heads.items():
        out[f"teacher_logits/{head}"] = np.zeros((count, len(teachers), classes), np.float16)
        out[f"teacher_logits/{head}"][at] = rows[f"logits/{head}"]
    return out


def _why(
    use: BankUse,
    manifest: Manifest,
    clips: Clips,
    numbers: Clips,
    known: NDArray[np.bool_],
    damaged: NDArray[np.int64],
    redrawn: NDArray[np.int64],
) -> str:
    missing = np.flatnonzero((clips != PADDING) & ~known)
    kinds = (
        ("no answer", missing),
        ("a damaged answer (wrong checksum)", damaged),
        ("an answer to another view", redrawn),
    )
    for what, rows in kinds:
        if len(rows):
            row = int(rows[0])
            clip, view = manifest.clip_ids[int(clips[row])], int(numbers[row])
            return (
                f"bank {use.folder} has {what} for clip {clip}, view {view}, and no teacher is live to be asked. With "
                "--teachers.mode auto the same command goes on: live teachers answer for such views, and the bank is "
                "mended. `python -m mmkd.bank inspect` says more."
            )
    raise AssertionError("nothing is wrong with the bank")


class Keeper:
    """Keeps what live teachers answer, on one worker.

    Args:
        stop: raise where answers cannot be kept, instead of saying so and going on.
        notice: is told when they cannot be.
    """

    def __init__(
        self,
        use: BankUse,
        views: Views,
        manifest: Manifest,
        label: str,
        stop: bool = True,
        notice: Callable[[str], None] = lambda text: None,
    ):
        self.writer = BankWriter(Path(use.folder), label)
        self._views, self._manifest, self._stop, self._notice = views, manifest, stop, notice
        self._order = np.argsort(use.columns)
        # auto was told of damaged answers, which it computes again; record does not look.
        self._before = Bank(Path(use.folder)) if use.mode == "record" else None
        self._done: dict[int, NDArray[np.bool_]] = {}  # view to clips that were kept
        self._failed = False

    def add(self, block: Block) -> None:
        """Take the rows of a block that live teachers answered for.

        Raises:
            ValueError: they cannot be kept, and `stop`.
        """
        clips, views = block["clip"], block["view"]
        new = (block["status"] != PADDED) & ~block.get("banked", np.zeros(len(clips), bool))
        if self._before is not None:
            new &= ~self._before.has(clips, views)
        for view in np.unique(views[new]).tolist():
            done = self._done.setdefault(view, np.zeros(len(self._manifest.clip_ids), bool))
            new &= (views != view) | ~done[clips]
        if self._failed or not new.any():
            return
        rows = {"clip": clips[new], "view": views[new], "status": block["status"][new]}
        rows["present"] = block["teacher_present"][new]
        rows["parameters"] = view_parameters(self.writer.layout, self._views, self._manifest, clips[new], views[new])
        with np.errstate(over="ignore"):  # what does not fit is refused
            for head in self.writer.layout.heads:
                rows[f"logits/{head}"] = block[f"teacher_logits/{head}"][new].astype(np.float16)
        for view in np.unique(views[new]).tolist():
            self._done[view][clips[new & (views == view)]] = True
        self._try(lambda: self.writer.add(select_teachers(rows, self._order.tolist())))

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            ValueError: it cannot be written, and `stop`.
        """
        if not self._failed:
            self._try(self.writer.flush)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._failed = True
            said = f"teachers' answers cannot be kept in {self.writer.folder}: {error}."
            if self._stop:
                raise ValueError(
                    f"{said} Make room, and the same command goes on; or go on without a bank: "
                    "--teachers.if_bank_fails go_on."
                ) from error
            self._notice(f"{said} The training goes on; the bank is valid for what it holds.")


def answered(block: Block) -> tuple[int, int]:
    """Answers (of one teacher to one view of one clip) in a block: computed by live teachers, and replayed."""
    present = block["teacher_present"] & (block["status"] == REAL)[:, None]
    replayed = block.get("banked", np.zeros(len(present), bool))
    return int(present[~replayed].sum()), int(present[replayed].sum())
