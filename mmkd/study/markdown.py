"""A study's results as Markdown, to be kept beside code or in a page of one's own."""

from collections.abc import Sequence
from pathlib import Path

from mmkd.cost.record import Cost
from mmkd.report.table import main_head, nats, parameters_text, percent, signed
from mmkd.study.results import Claim, Contrast, StudyResults, Summary


def write_markdown(
    path: Path,
    results: StudyResults,
    summaries: Sequence[Summary],
    contrasts: Sequence[Contrast],
    claims: Sequence[Claim],
) -> None:
    """Write the claims, the table of students, costs, search and facts."""
    parts = [
        "## The claims\n",
        *(_claim(claim) for claim in claims),
        "## All arms\n",
        _students(summaries, contrasts),
        "## Costs\n",
        _costs(results.costs),
        "## The search\n",
        _search(results),
        "## The run\n",
        "\n".join(f"- {name}: {value}" for name, value in results.facts) + "\n",
    ]
    path.write_text("\n".join(parts))


def _claim(claim: Claim) -> str:
    lines = [f"**{claim.text}** *{claim.verdict.capitalize()}.*\n", *(f"- {sentence}" for sentence in claim.said)]
    return "\n".join(lines) + "\n"


def _students(summaries: Sequence[Summary], contrasts: Sequence[Contrast]) -> str:
    head = main_head(summaries[0].heads)
    others = [name for name in summaries[0].heads if name != head]
    names = ["arm", "seeds", f"{head} %", *(f"{name} %" for name in others), "ECE (floor)", "NLL", "Brier"]
    names += ["scaled ECE", "scaled NLL", "unseen %", "against", "difference"]
    rows = []
    for each in summaries:
        own = each.heads[head]
        spread = f" ± {percent(own['accuracy_sd'])}" if len(each.seeds) > 1 else ""
        found = next(
            (c for c in contrasts if (c.first, c.second, c.where) == (each.arm.name, each.arm.reference, "test")), None
        )
        difference = "-"
        if found is not None:
            interval = found.outcomes[head]["accuracy"]
            low, high = (signed(100 * x, 1) for x in (interval.low, interval.high))
            difference = f"{signed(100 * interval.difference, 1)} ({low} to {high})"
        cells = [
            f"{'**' * (not each.arm.exploratory)}{each.arm.title}{'**' * (not each.arm.exploratory)}",
            str(len(each.seeds)),
            f"{percent(own['accuracy'])}{spread}",
            *(percent(each.heads[name]["accuracy"]) for name in others),
            f"{percent(own['ece'])} ({percent(own['ece_floor'])})",
            nats(own["nll"]),
            f"{own['brier']:.3f}",
            f"{percent(own['scaled_ece'])} ({percent(own['scaled_ece_floor'])})",
            nats(own["scaled_nll"]),
            percent(each.unseen[head]["accuracy"]) if each.unseen else "-",
            each.arm.reference or "-",
            difference,
        ]
        rows.append(cells)
    return _table(names, rows)


def _costs(costs: Sequence[Cost]) -> str:
    rows = [
        [
            cost.name,
            parameters_text(cost.parameters),
            f"{cost.gflops:.3g}",
            f"{cost.latency_ms:.1f}",
            f"{cost.clips_per_second:.0f}",
            ", ".join(f"{part} {ms:.1f}" for part, ms in cost.parts.items()) or "-",
        ]
        for cost in costs
    ]
    return _table(["model", "parameters", "GFLOPs a view", "latency, ms", "views/s", "of it, ms"], rows)


def _search(results: StudyResults) -> str:
    rows = [
        [
            str(row["arm"]),
            f"{row['lr']:g}",
            str(row["epochs"]),
            percent(row["accuracy"]),
            nats(row["nll"]),
            "chosen" if row["chosen"] else "",
        ]
        for row in results.search
    ]
    return _table(["arm", "learning rate", "epochs", "accuracy on val, %", "NLL", ""], rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
