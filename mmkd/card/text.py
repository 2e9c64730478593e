"""The page of a model card, as a pure function of what is on record. What is not on record is left out, or said to be
unknown."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from mmkd.card.facts import Evaluated, Facts
from mmkd.report.table import parameters_text

MARK = "<!-- Written by mmkd from the model's records; `python -m mmkd card` writes it anew. -->"
"""What a card begins with."""
KINDS = {
    "distill": "a student, distilled from an ensemble of teachers",
    "labels": "trained on labels alone",
    "reference": "converted from what the authors of the paper released",
}


def model_card(facts: Facts) -> str:
    """The card, in Markdown.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: a record is not what mmkd writes.
    """
    plain = _plain({each.name: getattr(facts, each.name) for each in fields(facts)})
    facts = Facts(**plain | {"folder": facts.folder})
    sections: list[tuple[str, Callable[[Facts], list[str]]]] = [
        ("Use", _use),
        ("Data", _data),
        ("Teachers", _teachers),
        ("Training", _training),
        ("Accuracy and calibration", _accuracy),
        ("Cost", _cost),
        ("Licences", _licences),
        ("Limits", _limits),
    ]
    lines = [MARK, "", f"# {facts.name}", "", *_lead(facts)]
    for title, section in sections:
        if said := section(facts):
            lines += ["", f"## {title}", "", *said]
    return "\n".join(lines) + "\n"


def _lead(facts: Facts) -> list[str]:
    described = facts.description
    kind = described["training"].get("kind", "")
    what = "a teacher, trained on labels" if kind.startswith("teacher") else KINDS.get(kind, "")
    heads = " and ".join(f"{head} ({len(names)} classes)" for head, names in described["heads"].items())
    size = f"{parameters_text(facts.parameters)} parameters"
    how = f"It is {what}." if what else "How it was trained is unknown; it is not on record."
    return [f"`{described['arch']}` that sees {described['modality']} and tells {heads}; {size}. {how}"]


def _use(facts: Facts) -> list[str]:
    described, seen = facts.description, facts.description["input"]
    frames, size = seen.get("frames", "frames"), seen.get("size", "size")
    shape = {
        "rgb": f"frames: uint8 [batch, {frames}, {size}, {size}, 3]",
        "flow": f"flow: uint8 [batch, {frames}, {size}, {size}, 2], u and v",
        "audio": f"sound: int16 [batch, {frames}, samples]",
        "boxes": f"boxes: a dict, [batch, {frames}, boxes] and for `boxes` x 4",
    }[described["modality"]]
    named, _, what = shape.partition(": ")
    gives = ", ".join(f'"{head}": [batch, {len(names)}]' for head, names in described["heads"].items())
    videos = described["modality"] == "rgb" and {"frames", "size"} <= set(seen)
    lines = [
        "```python",
        "import mmkd",
        f"model = mmkd.load_model({json.dumps(facts.folder)})",
        f"logits = model({named})  # {what} to {{{gives}}}",
        *(['said = mmkd.predict(model, "clip.mp4")  # frames chosen and cut as in its training'] if videos else []),
        "```",
        "",
        "It normalises inside. A view of a clip: " + ", ".join(f"{name} {value}" for name, value in seen.items()) + ".",
    ]
    for head, names in described["heads"].items():
        several = " (any number at a time)" if head in described["multi_label"] else ""
        lines += ["", f"Classes of {head}{several}, in order: {', '.join(names)}."]
    return lines


def _data(facts: Facts) -> list[str]:
    training = facts.description["training"]
    data = training.get("data")
    if not data:
        return ["Unknown; it is not on record."]
    made_by = {key: value for key, value in data.get("made_by", {}).items() if not isinstance(value, dict)}
    rows = [["data set", f"{data['name']}, fingerprint {data['fingerprint']}"]]
    rows.append(["made by", ", ".join(f"{key} {value}" for key, value in made_by.items()) or "unknown"])
    held_out = "" if data.get("saw_held_out", True) else ", without those that teachers are weighed on"
    of = f"split {data['train']}" if "train" in data else "the training split"
    rows.append(["trained on", f"{data['clips']} clips of {of}{held_out}"])
    if "val" in training:
        clips = next(iter(training["val"].values()))["n"]
        rows.append(["chosen by", f"{clips} labelled clips of {_val(facts)}"])
    for each in facts.evaluations:
        clips = next(iter(each.scores.values()))["n"]
        rows.append(["tested on", f"{clips} labelled clips of split {each.split} ({each.run})"])
    return _table(["", ""], rows)


def _teachers(facts: Facts) -> list[str]:
    training = facts.description["training"]
    hashes, judged = training.get("teachers"), training.get("competence")
    if not hashes:
        return ["None: it learnt from labels."] if training.get("kind", "").startswith(("labels", "teacher")) else []
    if not judged:
        return _table(["teacher", "hash of its weights"], [[name, digest] for name, digest in hashes.items()])
    heads = list(judged["weight"])
    header = ["teacher", "hash of its weights"]
    header += [f"{head}: {what}" for head in heads for what in ("accuracy", "ECE", "weight")]
    rows = []
    for number, name in enumerate(judged["names"]):
        row = [name, hashes[name]]
        for head in heads:
            own = [judged[part][head][number] for part in ("accuracy", "ece", "weight")]
            row += [_percent(own[0]), _points(own[1]), f"{own[2]:.2f}" if own[2] else "left out"]
        rows.append(row)
    clips = " and ".join(f"{max(count)} ({head})" for head, count in judged["count"].items())
    used = facts.config.get("teachers", {})
    how = {
        "held_out": "Weights: softmin of the cross-entropy on these clips, divided by gamma {gamma}.",
        "per_sample": "Weights in training: of each clip's own label, gamma {gamma}; the table has the held-out ones.",
        "uniform": "Weights: equal.",
    }.get(used.get("weighting", ""), "How they were weighted is unknown.")
    said = f"Measured on labelled clips that are held out to weigh teachers: {clips}. " + how.format(**used)
    return [*_table(header, rows), "", said]


def _training(facts: Facts) -> list[str]:
    training = facts.description["training"]
    settings = training.get("settings", {})
    loss, optim = settings.get("loss", {}), settings.get("optim", {})
    rows = []
    if "epoch" in training:
        done = f" of {facts.epochs}" if facts.epochs else ""
        rows.append(["epoch", f"{training['epoch']}{done}, the best on {_val(facts)}"])
    names = ("name", "lr", "batch_size", "weight_decay", "warmup_epochs", "schedule", "precision", "ema")
    rows += [["optimiser", ", ".join(f"{name} {optim[name]}" for name in names if name in optim)]] if optim else []
    terms = ("kind", "temperature", "distill_weight", "label_weight", "feature_weight")
    rows += [["loss", ", ".join(f"{name} {loss[name]}" for name in terms if name in loss)]] if loss else []
    rows += [[name, str(training[key])] for name, key in (("seed", "seed"), ("mmkd", "mmkd")) if key in training]
    if "seconds" in facts.result:
        said = f"{facts.result['seconds']} s, {facts.result['broken_clips']} broken clips"
        rows.append(["took", said])
    return _table(["", ""], rows) if rows else []


def _accuracy(facts: Facts) -> list[str]:
    training, fitted = facts.description["training"], facts.description["temperatures"]
    lines: list[str] = []
    if "val" in training:
        header = [_val(facts), "labelled clips", "accuracy", "ECE", "NLL", "temperature"]
        rows = []
        for head, own in training["val"].items():
            if "mean_average_precision" in own:
                rows.append([head, str(own["n"]), f"mAP {_percent(own['mean_average_precision'])}", "-", "-", "-"])
                continue
            accuracy = f"{_percent(own['accuracy'])} ± {_points(own['standard_error'])}"
            temperature = f"{fitted[head]:.2f}" if head in fitted else "-" if head == "action" else "unknown"
            rows.append([head, str(own["n"]), accuracy, _points(own["ece"]), _nats(own["nll"]), temperature])
        lines = _table(header, rows)
    for each in facts.evaluations:
        lines += ["", *_evaluation(each)] if lines else _evaluation(each)
    if not lines:
        return ["Unknown; nothing is on record."]
    lines += ["", "± one standard error over clips. ECE: expected calibration error, points; NLL: nats."]
    if fitted:
        lines[-1] += f" Temperature: makes softmax(logits / temperature) fit {_val(facts)} best; logits are without it."
    return lines


def _evaluation(each: Evaluated) -> list[str]:
    header = [f"{each.split}, {each.views} views", "labelled clips", "accuracy", "ECE", "(floor)", "NLL"]
    header += ["temperature", "ECE with it", "NLL with it"]
    rows = []
    for head, own in each.scores.items():
        if "top1" not in own:
            shown = own.get("mean_average_precision")
            rows.append([head, str(own["n"]), "-" if shown is None else f"mAP {_percent(shown)}", *["-"] * 6])
            continue
        row = [head, str(own["n"]), f"{_percent(own['top1'])} ± {_points(own['top1_se'])}"]
        row += [_points(own["ece"]), _points(own["ece_floor"]), _nats(own["nll"])]
        scaled = own.get("scaled")
        by = scaled["temperature"] if scaled else None
        row += [f"{by:.2f}" if isinstance(by, float) else "-"]
        row += [_points(scaled["ece"]), _nats(scaled["nll"])] if scaled else ["-", "-"]
        rows.append(row)
    return _table(header, rows)


def _cost(facts: Facts) -> list[str]:
    counted = "unknown" if facts.gflops is None else f"{facts.gflops:.3g}"
    rows = [["parameters", f"{facts.parameters:,}"], ["GFLOPs a view", counted]]
    for each in facts.evaluations:
        if each.cost:
            said = f"{each.cost['latency_ms']:.1f} ms a view, {each.cost['clips_per_second']:.0f} clips/s"
            rows.append(
                [f"measured by {each.run}", f"{said}, {each.cost['peak_mb']:.1f} MB, with the making of inputs"]
            )
    return _table(["", ""], rows)


def _licences(facts: Facts) -> list[str]:
    said = "No licence of these weights themselves is on record; it depends on what went into them."
    return [*_table(["what", "licence"], [list(row) for row in facts.licences]), "", said]


def _limits(facts: Facts) -> list[str]:
    described, training = facts.description, facts.description["training"]
    single = [head for head in described["heads"] if head not in described["multi_label"]]
    lines = []
    if single:
        lines.append(f"- It names one of its classes of {' and '.join(single)} whatever it is shown.")
    if "val" in training:
        lines.append(f"- Its epoch was chosen by {_val(facts)}, so its figures there are a little too good.")
    if not facts.evaluations:
        lines.append("- No evaluation on other clips is on record: `python rayjobs/evaluate.py --model` makes one.")
    if "seed" in training:
        lines.append(f"- It is one training run, of seed {training['seed']}; others of another seed will differ.")
    data = training.get("data", {})
    if data.get("made_by", {}).get("source") == "tabletop":
        lines.append("- Its clips are simulated: what holds on them need not hold on real video.")
    if data:
        lines.append(f"- Nothing is on record about clips of other data sets than {data['name']}.")
    return lines


def _val(facts: Facts) -> str:
    """The split by which the epoch was chosen."""
    return f"split {facts.config['data']['val']}" if facts.config else "the validation split"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _plain(value: Any) -> Any:
    """A record whose texts stay in their line and their cell, and are no markup: anybody may have written them."""
    if isinstance(value, str):
        return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return Evaluated(**_plain(vars(value))) if isinstance(value, Evaluated) else value


def _percent(share: float) -> str:
    return f"{_points(share)} %"


def _points(share: float) -> str:
    """A share (0..1) times 100; a dash where there was no clip to have one of."""
    return f"{100 * share:.1f}" if share == share else "-"


def _nats(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"
