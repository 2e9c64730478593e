"""What a training writes into its run folder: metrics, rejects, checkpoints, the best model; and its boards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmkd.calibration import fit_temperatures
from mmkd.checkpoint import Checkpoints, write_checkpoint
from mmkd.competence import Competence
from mmkd.config import Run
from mmkd.fit import Fit
from mmkd.models import save_model
from mmkd.reader import Block
from mmkd.report.predictions import Predictions
from mmkd.runs import add_lines, write_json
from mmkd.shards import Manifest
from mmkd.telemetry import make_boards
from mmkd.workers import rank

Report = Callable[[dict[str, Any]], None]
"""Told by every worker after each validation what the best epoch so far is worth."""


class FolderRecorder:
    """Writes on rank 0; of the other workers only what they saw."""

    def __init__(
        self, settings: Run, run: Path, manifests: dict[str, Manifest], facts: dict[str, Any], report: Report | None
    ):
        self.run, self.manifests, self.facts, self.report = run, manifests, facts, report
        self.checkpoints = Checkpoints(run / "checkpoints", settings.keep_checkpoints, self.notice)
        self.first = rank() == 0
        self.boards = make_boards(settings, run, rank())

    def close(self) -> None:
        for board in self.boards:
            board.close()

    def train(self, row: dict[str, Any]) -> None:
        if self.first:
            self._append("metrics.jsonl", {"kind": "train", **row})
        for board in self.boards:
            board.train(row)

    def trace(self, row: dict[str, Any]) -> None:
        self._append(f"trace-{rank()}.jsonl", row)

    def competence(self, competence: Competence) -> None:
        if self.first:
            write_json(self.run / "competence.json", competence.as_dict())

    def notice(self, text: str) -> None:
        self._append("notices.jsonl", {"text": text})

    def broken(self, clips: list[tuple[str, int, str]]) -> None:
        if not self.first:
            return
        for board in self.boards:
            board.broken(len(clips))
        if clips:
            rows = [
                {"split": split, "clip_id": self.manifests[split].clip_ids[clip], "reason": reason}
                for split, clip, reason in clips
            ]
            add_lines(self.run / "rejects.jsonl", rows)

    def checkpoint(self, fit: Fit, position: int, score: float | None = None) -> None:
        if self.first:
            state = fit.state() | {"position": position}
            self.checkpoints.add(position, lambda folder: write_checkpoint(folder, fit.updater, state), score)

    def epoch(self, row: dict[str, Any], fit: Fit, answers: Block, is_best: bool) -> None:
        if self.first:
            self._epoch(row, fit, answers, is_best)
        if self.report is not None:
            # Of the best epoch so far: what the model in best/ is worth.
            self.report({"score": row["score"], "epoch": row["epoch"], **fit.best_val})

    def _epoch(self, row: dict[str, Any], fit: Fit, answers: Block, is_best: bool) -> None:
        if is_best:
            if (predictions := self._predictions(fit, answers)) is not None:
                predictions.save(self.run / "predictions-val.parquet")
                fit.model.spec.temperatures = fit_temperatures(predictions.logits, predictions.labels)
            learnt = {**self.facts, "epoch": row["epoch"], "val": row["val"], "competence": fit.competence}
            save_model(fit.model, self.run / "best", learnt)
        self._append("metrics.jsonl", {"kind": "epoch", **row})
        for board in self.boards:
            board.epoch(row)
        self.checkpoint(fit, row["position"], row["score"])

    def _predictions(self, fit: Fit, answers: Block) -> Predictions | None:
        heads = [head for head in fit.heads if answers[f"label/{head}"].ndim == 1]
        if not heads:
            return None
        return Predictions(
            self.facts["kind"],
            [self.manifests["val"].clip_ids[clip] for clip in answers["clip"]],
            {head: answers[f"label/{head}"] for head in heads},
            {head: answers[f"logits/{head}"] for head in heads},
            fit.model.num_parameters,
        )

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with open(self.run / name, "a") as file:
            file.write(json.dumps(row) + "\n")
