"""The training loop: blocks in plan order in, a fitted network out. One loop for students, baselines and teachers.

It knows nothing of Ray: blocks come from an iterator, workers talk through torch.distributed where it is set up, and
what leaves goes through a `Recorder`.
"""

import os
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkd.competence import judge
from mmkd.fit import Fit, Recorder
from mmkd.inputs import inputs_of, mean_logits
from mmkd.interruptions import Interruptions
from mmkd.meter import Collector, Meter
from mmkd.metrics import evaluate_heads, headline, selection_score
from mmkd.objective import Targets
from mmkd.plan import Step
from mmkd.reader import REAL, Block
from mmkd.workers import buffers_of_first, gather, rank, total, world_size


def fit_blocks(fit: Fit, blocks: Iterable[Block], recorder: Recorder) -> None:
    """Carry out the rest of the plan from fit.position, or as much of it as until a request to stop; `blocks` yields
    this worker's units of it, in order.

    Raises:
        RuntimeError: a block is not the one that the plan has at this place, or the blocks end early.
        ValueError: the teachers are refused, or too many clips are broken.
    """
    weigh, validation = Collector(), Collector()
    meter = Meter(world_size())
    for block in meter.timed(blocks):
        step = fit.plan.step(fit.position)
        _check_place(block, step)
        real = block["status"] == REAL
        meter.count(step, block, real)
        # A clip without what the network sees teaches it nothing, as an evaluation leaves it out.
        seen = real & block.get(f"has/{fit.recogniser.modality}", real)
        if fit.interruptions is not None:
            fit.interruptions.ask()
        if fit.settings.run.trace:
            row = {"phase": step.phase, "epoch": step.epoch + 1, "clips": block["clip"][real].tolist()}
            recorder.trace({"position": fit.position + 1, "process": os.getpid(), **row})
        if fit.keeper is not None and step.phase != "val":
            fit.keeper.add(block)
        if step.phase == "weigh":
            weigh.add({name: block[name][real] for name in _weigh_columns(fit)})
            if fit.plan.ends_phase(step):
                _judge(fit, weigh.pop(), recorder)
        elif step.phase == "train":
            terms = _train_step(fit, step, block, seen)
            done = fit.plan.optimizer_step(fit.position + 1)
            if done % fit.settings.run.log_every == 0 or fit.plan.ends_phase(step):
                recorder.train(_train_row(fit, step, done, terms, meter))
        else:
            if step.number == 0:
                # They differ, as each worker's training updates its own.
                buffers_of_first(fit.updater.trained)
                if fit.updater.ema is not None:
                    buffers_of_first(fit.updater.ema.module)
            validation.add(_predict(fit, block, real, seen))
        fit.position += 1
        if fit.plan.ends_phase(step):
            _count(fit, meter, recorder)
            if step.phase == "val":
                _flush(fit)
                _end_epoch(fit, step, validation.pop(), meter, recorder)
        if fit.interruptions is not None and _interrupted(fit, fit.interruptions, step, meter, recorder):
            return
    if fit.position < fit.plan.num_steps:
        raise RuntimeError(f"the data ended at step {fit.position} of {fit.plan.num_steps}; the run can be resumed.")


def _interrupted(fit: Fit, interruptions: Interruptions, step: Step, meter: Meter, recorder: Recorder) -> bool:
    """Keep a checkpoint where one is due; whether the run is to end here."""
    asked = interruptions.after(fit.plan.optimizer_step(fit.position) if step.phase == "train" else 0)
    validated = step.phase == "val" and fit.plan.ends_phase(step)
    if validated:
        interruptions.checkpoint_kept()
    elif step.phase != "weigh" and (asked.checkpoint or asked.stop):
        # Answers and counts of half a validation are not kept: it would be done again from its first step.
        begun = step.number + 1 if step.phase == "val" else 0
        if not begun:
            _count(fit, meter, recorder)
        _flush(fit)
        recorder.checkpoint(fit, fit.position - begun)
        interruptions.checkpoint_kept()
    return asked.stop


def _flush(fit: Fit) -> None:
    """Put what the teachers answered into the bank, so that it has all that a checkpoint's steps asked."""
    if fit.keeper is not None:
        fit.keeper.flush()


def _check_place(block: Block, step: Step) -> None:
    if not ((block["step"] == step.index).all() and (block["rank"] == rank()).all()):
        got = f"step {np.unique(block['step']).tolist()} of rank {np.unique(block['rank']).tolist()}"
        raise RuntimeError(f"worker {rank()} expected step {step.index} of the plan and was given {got}.")


def _train_step(fit: Fit, step: Step, block: Block, real: np.ndarray) -> dict[str, Tensor]:
    """One optimiser step; returns the loss and its terms over the global batch.

    Each term is a sum over rows divided by the number of such rows in the *global* batch. As DDP averages gradients
    over workers, a worker's share is multiplied by their number. What else they tell each other travels while the
    network computes, as each wait for each other costs the difference between them.
    """
    # Seeded by place, so that dropout is the same after a resume without any generator state being kept.
    number = fit.plan.optimizer_step(fit.position)
    torch.manual_seed(hash((fit.settings.run.seed, number, rank())) & 0x7FFFFFFF)
    # A worker whose share is all padding still has to take part in the others' gradient exchange.
    rows = np.flatnonzero(real) if real.any() else np.zeros(1, np.int64)
    fit.network.train(bool(real.any()))
    if fit.frozen:
        fit.recogniser.backbone.eval()
    fit.objective.set_progress(number / max(fit.plan.optimizer_steps - 1, 1))
    targets = fit.objective.targets(block, rows, real, fit.weights)
    here = fit.objective.counts(targets)
    counting, counts = total(torch.stack(list(here.values())).float()), dict[str, Tensor]()
    parts = np.array_split(np.arange(len(rows)), min(fit.settings.optim.accumulate, len(rows)))
    losses: list[dict[str, Tensor]] = []
    for part in parts:
        last = part is parts[-1]
        # Workers exchange gradients once, after the last part.
        with nullcontext() if last else getattr(fit.network, "no_sync", nullcontext)():
            each = _row_losses(fit, block, rows[part], targets.take(torch.from_numpy(part).to(fit.device)))
            losses.append({term: value.detach() for term, value in each.items()})
            counts = counts or dict(zip(here, counting().clamp_min(1), strict=True))
            if last:
                adding = total(_sums(losses, here))
            weights = fit.objective.weights
            weighted = [weights[term] * each[term].sum() / counts[term] for term in each if term in weights]
            fit.updater.backward(torch.stack(weighted).sum() * world_size())
    means = {term: value / counts[term] for term, value in zip(here, adding(), strict=True)}
    terms = fit.objective.record(means)
    if not torch.isfinite(terms["loss"]):
        bad = [~torch.isfinite(torch.stack(list(part.values()))).all(dim=0) for part in losses]
        raise _not_finite(fit, step, "the loss is", block["clip"][rows[torch.cat(bad).cpu().numpy()]])
    try:
        fit.updater.step(number)
    except FloatingPointError:
        raise _not_finite(fit, step, "the loss is finite but its gradients are", block["clip"][rows]) from None
    return terms


def _row_losses(fit: Fit, block: Block, rows: np.ndarray, targets: Targets) -> dict[str, Tensor]:
    with fit.updater.autocast():
        output = fit.network(inputs_of(block, fit.recogniser.modality, rows, fit.device))
    return fit.objective.rows(output, targets)


def _sums(losses: list[dict[str, Tensor]], terms: Iterable[str]) -> Tensor:
    """Of each term over the rows of all parts, float32 [terms]; 0 where it is in none."""
    zero = torch.zeros_like(next(iter(losses[0].values()))[0])
    return torch.stack([sum((part[term].sum() for part in losses if term in part), zero) for term in terms])


def _not_finite(fit: Fit, step: Step, what: str, clips: np.ndarray) -> ValueError:
    """The reason to stop, with the clips of all workers that it came from."""
    numbers = sorted({number for worker in gather(clips.tolist()) for number in worker})
    said = ", ".join(fit.clip_id("train", number) for number in numbers[:20]) + (" ..." if len(numbers) > 20 else "")
    return ValueError(
        f"{what} not finite in epoch {step.epoch + 1}, step {step.number + 1}, from clips {said}. The last checkpoint "
        "is sound; try a lower optim.lr, a longer optim.warmup_epochs, optim.precision fp32, or look at these clips."
    )


@torch.inference_mode()
def _predict(fit: Fit, block: Block, real: np.ndarray, seen: np.ndarray) -> Block:
    """Columns of the real clips: number, labels, whether the network was shown it, and its logits, zeros if not."""
    model, shown = fit.model.eval(), np.flatnonzero(seen)
    out = {"clip": block["clip"][real], "seen": seen[real]}
    out |= {f"label/{head}": block[f"label/{head}"][real] for head in fit.heads}
    logits = {head: np.zeros((len(real), len(names)), np.float32) for head, names in model.spec.heads.items()}
    if len(shown):
        size = -(-len(real) // fit.settings.optim.accumulate)  # at a time, as in training
        with fit.updater.autocast():
            answers = mean_logits(model, model.modality, block, shown, fit.device, size)
        for head, values in answers.items():
            logits[head][shown] = values.cpu().numpy()
    return out | {f"logits/{head}": values[real] for head, values in logits.items()}


def _weigh_columns(fit: Fit) -> list[str]:
    heads = fit.heads
    return ["clip", "teacher_present", *(f"{part}/{head}" for part in ("label", "teacher_logits") for head in heads)]


def _judge(fit: Fit, columns: Block, recorder: Recorder) -> None:
    heads = fit.heads
    competence = judge(
        fit.teacher_names,
        {head: columns[f"teacher_logits/{head}"] for head in heads},
        columns["teacher_present"],
        {head: columns[f"label/{head}"] for head in heads},
        weighting=fit.settings.teachers.weighting,
        gamma=fit.settings.teachers.gamma,
        drop_near_chance=fit.settings.teachers.drop_near_chance,
    )
    fit.use_competence(competence)
    recorder.competence(competence)


def _end_epoch(fit: Fit, step: Step, columns: Block, meter: Meter, recorder: Recorder) -> None:
    broken = [clip for split, clip, _ in meter.all_broken if split == "val"]
    expected = np.setdiff1d(fit.plan.val, broken)
    if not np.array_equal(np.sort(columns["clip"]), np.sort(expected)):
        raise RuntimeError(f"validation saw {len(columns['clip'])} clips where the plan has {len(expected)}.")
    seen = columns.pop("seen")
    columns = {name: values[seen] for name, values in columns.items()}
    if len(expected) and not seen.any():
        raise ValueError(
            f"no clip of split {fit.settings.data.val} has {fit.recogniser.modality}; nothing to validate."
        )
    logits = {head: columns[f"logits/{head}"] for head in fit.heads}
    labels = {head: columns[f"label/{head}"] for head in fit.heads}
    metrics = evaluate_heads(logits, labels)
    score = selection_score(metrics, logits, labels)
    is_best = score > fit.best
    if is_best:
        fit.best, fit.best_epoch, fit.best_val = score, step.epoch, headline(metrics)
    row = {"epoch": step.epoch + 1, "position": fit.position, "score": score, "val": metrics, **meter.epoch()}
    if fit.weights:
        row["teacher_answers"] = {"computed": fit.answers_computed, "replayed": fit.answers_replayed}
    recorder.epoch(row, fit, columns, is_best)


def _count(fit: Fit, meter: Meter, recorder: Recorder) -> None:
    new, read, computed, replayed = meter.take_counts()
    fit.answers_computed += computed
    fit.answers_replayed += replayed
    fit.clips_read += read
    fit.clips_broken += len(new)
    recorder.broken(new)
    share = fit.clips_broken / max(fit.clips_read, 1)
    if share > fit.settings.data.max_broken_share:
        examples = "; ".join(f"{split} clip {fit.clip_id(split, clip)}: {reason}" for split, clip, reason in new[:3])
        raise ValueError(
            f"{fit.clips_broken} of {fit.clips_read} clips read are broken ({100 * share:.1f} %), more than "
            f"data.max_broken_share allows ({examples}). rejects.jsonl in the run folder lists them."
        )


def _train_row(fit: Fit, step: Step, done: int, terms: dict[str, Tensor], meter: Meter) -> dict[str, Any]:
    row: dict[str, Any] = {"step": done, "position": fit.position + 1, "epoch": step.epoch + 1}
    row |= {name: float(value) for name, value in terms.items()}
    row["lr"] = max(group["lr"] for group in fit.updater.optimizer.param_groups)
    if fit.settings.loss.temperature_schedule != "constant":
        row["temperature"] = fit.objective.temperature
    if fit.settings.loss.weight_schedule != "constant":
        row |= {name: getattr(fit.objective, name) for name in ("distill_weight", "label_weight")}
    return row | meter.rates(fit.plan, fit.position)
