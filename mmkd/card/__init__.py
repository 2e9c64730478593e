"""The model card: README.md of a model folder, made of what is on record about it and nothing else.

`facts` gathers the records, `text` makes the page of them, and `command` is `python -m mmkd card`.
"""

from collections.abc import Collection
from pathlib import Path

from mmkd.card.facts import Facts, gather
from mmkd.card.text import MARK, model_card

__all__ = ["Facts", "gather", "model_card", "write_card"]


def write_card(folder: str | Path, *, trust: Collection[str] = (), force: bool = False) -> Path:
    """Write README.md into a model folder, and return its path.

    Args:
        trust: see :func:`mmkd.models.load_model`.
        force: also over a README.md that is not such a card.

    Raises:
        FileNotFoundError: the folder holds no model.
        FileExistsError: there is a README.md of somebody's own.
        ValueError: the model, or a record of it, cannot be read.
    """
    path = Path(folder) / "README.md"
    facts = gather(folder, trust)
    if path.is_file() and not path.read_text(errors="replace").startswith(MARK) and not force:
        raise FileExistsError(f"{path} is not a card that mmkd wrote; move it away, or give --force to replace it.")
    try:
        text = model_card(facts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"what is on record about {folder} cannot be read: {error!r}.") from error
    partial = path.with_name("README.md.partial")
    partial.write_text(text)
    partial.replace(path)
    return path
