"""The page's section on what one model gets wrong."""

from collections.abc import Mapping, Sequence
from html import escape

from mmkd.report.confusion import MOST_CLASSES, WRITTEN, confusion_matrix, picture_width
from mmkd.report.mistakes import FEW_CLIPS, Confusion, Counts, confusion_counts, frequent_confusions, worst_classes
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.strips import Strip, strip_card
from mmkd.report.table import main_head, percent

SURE = 0.9
LISTED, LISTED_CONFUSIONS, SAID_OF_A_CLASS = 8, 15, 3


def mistakes_section(models: Sequence[Predictions], heads: Mapping[str, Sequence[str]], strips: Sequence[Strip]) -> str:
    """HTML of the mistakes of the first model; nothing where no label is known.

    Args:
        models: the first one's mistakes are shown; what the others said stands beside it on the clips.
        heads: class names; must have the model's heads.
        strips: clips of `confident_mistakes`, in its order.
    """
    model = models[0]
    counts = {head: confusion_counts(model, head) for head in model.logits}
    blocks = "".join(_head(head, heads[head], each) for head, each in counts.items() if each.any())
    if not blocks:
        return ""
    cards = "".join(strip_card(strip, models, heads) for strip in strips)
    if cards:
        said = f"The wrong answers that {model.name} was most sure of, the surest first. True classes in the heading."
        cards = f'<h3>Most confident mistakes</h3><p class="soft">{escape(said)}</p>{cards}'
    return (
        f"<section><h2>Mistakes of {escape(model.name)}</h2><p>{escape(_summary(model))}</p>{blocks}{cards}</section>"
    )


def _summary(model: Predictions) -> str:
    results = outcomes(model)
    head = main_head(results)
    known = results[head].known
    if not known.any():
        return "No clip has a label in every head."
    wrong = known & ~results[head].correct
    sure = int((results[head].confidence[wrong] >= SURE).sum())
    some = f"{sure:,}" if sure else "none"
    return (
        f"{int(wrong.sum()):,} of {_clips(int(known.sum()))} were answered wrongly ({head}), {some} of them "
        f"with a confidence of {100 * SURE:.0f}\N{NO-BREAK SPACE}% or more."
    )


def _head(head: str, names: Sequence[str], counts: Counts) -> str:
    """The confusions of a head beside its worst classes."""
    if len(names) > MOST_CLASSES:
        return f'<h3>{escape(head)}</h3><div class="pair">{_confusions(names, counts)}{_worst(names, counts)}</div>'
    width = picture_width(len(names))
    said = (
        f"Of the clips of each true class of {head}, the share (%) that was said to be of each class. "
        f"Shares below {100 * WRITTEN:g} % are only coloured."
    )
    matrix = (
        f'<figure><div class="scroll"><img class="picture matrix" src="{confusion_matrix(counts, names)}" '
        f'alt="{escape(f"Confusion matrix of {head}.")}"></div><figcaption>{escape(said)}</figcaption></figure>'
    )
    style = f"--full: {width}px; --least: {round(0.74 * width)}px"
    return f'<h3>{escape(head)}</h3><div class="pair" style="{style}">{matrix}{_worst(names, counts)}</div>'


def _confusions(names: Sequence[str], counts: Counts) -> str:
    found = frequent_confusions(counts, LISTED_CONFUSIONS)
    if not found:
        return ""
    body = "".join(
        f'<tr><th class="first">{escape(names[each.true])}</th><td class="first">{escape(names[each.said])}</td>'
        f"<td>{each.clips:,}</td><td>{percent(each.share)}</td></tr>"
        for each in found
    )
    return (
        '<div class="card"><div class="scroll"><table class="names"><thead><tr><th class="first">true class</th>'
        f'<th class="first">said</th><th>clips</th><th>% of the class</th></tr></thead><tbody>{body}</tbody></table>'
        '</div><p class="soft">The most frequent confusions; '
        f"{len(names):,} classes are too many for a matrix.</p></div>"
    )


def _worst(names: Sequence[str], counts: Counts) -> str:
    found, sizes = worst_classes(counts, LISTED), counts.sum(axis=1)
    notes = []
    if not found:
        notes.append("No clip was taken for one of another class.")
    elif any(each.clips < FEW_CLIPS for each in found):
        notes.append(f"Classes with the lowest accuracy; those with fewer than {FEW_CLIPS} clips last.")
    else:
        notes.append("Classes with the lowest accuracy.")
    if absent := int((sizes == 0).sum()):
        notes.append(f"{absent:,} of {len(names):,} classes {'has' if absent == 1 else 'have'} no clip here.")
    body = "".join(
        f'<tr><th class="first">{escape(names[each.label])}</th><td>{each.clips:,}</td>'
        f'<td>{percent(each.accuracy)}</td><td class="first">{_said(names, each.confusions)}</td></tr>'
        for each in found
    )
    table = (
        '<div class="scroll"><table class="names below"><thead><tr><th class="first">class</th><th>clips</th>'
        f'<th>accuracy (%)</th><th class="first">mistaken for (clips)</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    return f'<div class="card">{table if found else ""}<p class="soft">{" ".join(notes)}</p></div>'


def _said(names: Sequence[str], confusions: Sequence[Confusion]) -> str:
    shown = [f"{escape(names[each.said])}&nbsp;({each.clips:,})" for each in confusions[:SAID_OF_A_CLASS]]
    rest = len(confusions) - len(shown)
    return ", ".join(shown) + (f', <span class="soft">{rest:,}&nbsp;more</span>' if rest else "")


def _clips(number: int) -> str:
    return f"{number:,} clip{'s' * (number != 1)}"
