"""The tables of a sweep's page."""

from collections.abc import Collection, Sequence
from html import escape

from mmkd.report.sweep_trials import Trials, known, standing, status_text, value_text
from mmkd.report.table import nats, percent


def front_table(trials: Trials, front: Sequence[str]) -> str:
    """The trials named in `front`, in its order."""
    named = {trial.name: trial for trial in trials}
    rows = "".join(
        f'<tr><th class="first">{escape(name)}</th><td>{percent(known(named[name].accuracy))}</td>'
        f"<td>{percent(known(named[name].ece))}</td><td>{nats(known(named[name].nll))}</td></tr>"
        for name in front
    )
    return (
        '<table><thead><tr><th class="first">on the front</th><th>accuracy</th><th>ECE</th><th>NLL</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def trials_table(trials: Trials, best: str, front: Collection[str], settings: Sequence[str], *, folders: bool) -> str:
    """All trials with their settings, the most accurate first, those that failed last; with run folders if asked."""
    names = ["accuracy", "ECE", "NLL", "epochs", "seconds", "status", *settings, *["folder"] * folders]
    top = "".join(f"<th>{escape(name).replace('.', '.<br>')}</th>" for name in names)
    body = ""
    for trial in sorted(trials, key=lambda t: (t.status == "failed", -standing(t), t.name != best)):
        marks = ", ".join(["best"] * (trial.name == best) + ["front"] * (trial.name in front))
        cells = [percent(known(trial.accuracy)), percent(known(trial.ece)), nats(known(trial.nll)), str(trial.epochs)]
        cells += [f"{trial.seconds:,.0f}", status_text(trial.status)]
        cells += [value_text(trial.values[name]) if name in trial.values else "-" for name in settings]
        line = "".join(f"<td>{escape(cell)}</td>" for cell in [*cells, *[trial.run_folder] * folders])
        told = ' class="told"' if trial.error else ""
        body += f'<tr{told}><th class="first">{escape(trial.name)} <span class="soft">{marks}</span></th>{line}</tr>'
        if trial.error:
            error = f'<div class="error">{escape(trial.error)}</div>'
            body += f'<tr><td colspan="{len(names) + 1}">{error}</td></tr>'
    return (
        f'<div class="scroll"><table class="wide"><thead><tr><th class="first">trial</th>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
