"""What a model gets wrong, as figures and as a section of the page."""

import re

import numpy as np
import pytest

from mmkd.report.confusion import MOST_CLASSES, confusion_matrix
from mmkd.report.mistake_html import mistakes_section
from mmkd.report.mistakes import (
    Confusion,
    confident_mistakes,
    confusion_counts,
    frequent_confusions,
    worst_classes,
)
from mmkd.report.predictions import Predictions
from mmkd.report.strips import Strip


def answers(name: str = "student", classes: int = 4, **heads: list[tuple[int, int, float]]) -> Predictions:
    """Predictions from a head's (true class, said class, confidence) of each clip."""
    labels, logits = {}, {}
    for head, clips in heads.items():
        labels[head] = np.array([true for true, _, _ in clips])
        share = np.array([[(1 - sure) / (classes - 1)] * classes for _, _, sure in clips])
        share[np.arange(len(clips)), [said for _, said, _ in clips]] = [sure for _, _, sure in clips]
        logits[head] = np.log(share)
    return Predictions(name, [f"clip-{i}" for i in range(len(clips))], labels, logits)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("&nbsp;", " ").replace("\xa0", " ").split())


def test_counts_have_the_true_class_in_rows_and_leave_out_unknown_labels() -> None:
    one = answers(verb=[(0, 1, 0.9), (0, 1, 0.9), (0, 0, 0.9), (2, 0, 0.9), (-1, 3, 0.9)])
    assert confusion_counts(one, "verb").tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_confusions_are_ranked_by_clips_and_then_by_share_of_the_class() -> None:
    counts = np.array([[5, 3, 0], [0, 0, 3], [1, 4, 95]])
    assert frequent_confusions(counts, 3) == [
        Confusion(2, 1, 4, 0.04),
        Confusion(1, 2, 3, 1.0),
        Confusion(0, 1, 3, 0.375),
    ]
    assert frequent_confusions(np.diag([3, 4]), 3) == []


def test_a_class_of_two_clips_does_not_stand_before_a_worse_known_one() -> None:
    counts = np.array(
        [
            [9, 1, 0, 0, 0, 0],
            [0, 0, 2, 0, 0, 0],  # 2 clips, none right
            [0, 2, 4, 1, 0, 3],
            [0, 0, 0, 0, 0, 0],  # no clip
            [0, 0, 0, 0, 7, 0],  # no mistake
            [0, 8, 0, 0, 4, 8],
        ]
    )
    found = worst_classes(counts, 9)
    assert [(each.label, each.clips, each.accuracy) for each in found] == [
        (5, 20, 0.4), (2, 10, 0.4), (0, 10, 0.9), (1, 2, 0.0)
    ]  # fmt: skip
    assert [(each.said, each.clips, each.share) for each in found[1].confusions] == [
        (5, 3, 0.3), (1, 2, 0.2), (3, 1, 0.1)
    ]  # fmt: skip
    assert worst_classes(counts, 2) == found[:2]


def test_the_most_confident_mistakes_are_those_of_the_action_where_all_labels_are_known() -> None:
    one = answers(
        verb=[(0, 0, 0.9), (0, 1, 0.9), (1, 1, 0.9), (2, 2, 0.9), (-1, 1, 0.9), (3, 0, 0.6)],
        noun=[(0, 0, 0.9), (1, 1, 0.7), (1, 3, 0.9), (1, 2, 0.8), (1, 0, 0.99), (1, 0, 0.6)],
    )
    assert confident_mistakes(one, 9) == ["clip-2", "clip-3", "clip-1", "clip-5"]
    assert confident_mistakes(one, 1) == ["clip-2"]
    alone = answers(verb=[(0, 1, 0.6), (0, 0, 0.9), (0, 1, 0.8), (-1, 0, 0.99)])
    assert confident_mistakes(alone, 9) == ["clip-2", "clip-0"]


def test_the_section_says_what_was_wrong_how_often_and_how_surely() -> None:
    clips = [(0, 1, 0.95), *[(0, 0, 0.9)] * 5, (1, 1, 0.9), (1, 0, 0.6), (-1, 0, 0.9)]
    one, other = answers(verb=clips), answers("baseline", verb=[(0, 0, 0.5)] * len(clips))
    strips = [Strip(clip, np.zeros((3, 6, 8, 3), np.uint8)) for clip in confident_mistakes(one, 6)]
    html = mistakes_section([one, other], {"verb": ["lift", "drop", "sh<ke", "turn"]}, strips)
    text = text_of(html)
    assert "2 of 8 clips were answered wrongly (verb), 1 of them with a confidence of 90 % or more." in text
    assert "lift 6 83.3 drop (1) drop 2 50.0 lift (1)" in text and "those with fewer than 5 clips last" in text
    assert "2 of 4 classes have no clip here." in text and "<ke" not in html
    assert html.count("<img ") == 1 + 6 and html.count("data:image/svg+xml") == 1
    cards = [text_of(card) for card in re.findall("<article.*?</article>", html)]
    assert [card.split()[:2] for card in cards] == [["lift", "clip-0"], ["drop", "clip-7"]]
    assert "student ✗ wrong drop 95 % baseline ✓ right lift 50 %" in cards[0]


def test_many_classes_are_told_in_a_table_of_confusions() -> None:
    names = [f"class {i}" for i in range(MOST_CLASSES + 1)]
    clips = [(3, 4, 0.9), (3, 4, 0.9), (3, 3, 0.9), (3, 7, 0.9), (0, 0, 0.9)]
    html = mistakes_section([answers(classes=len(names), noun=clips)], {"noun": names}, [])
    assert "<img" not in html and "24 of 26 classes have no clip here." in text_of(html)
    assert "class 3 class 4 2 50.0 class 3 class 7 1 25.0 The most frequent" in text_of(html)
    fewer = mistakes_section([answers(classes=MOST_CLASSES, noun=clips)], {"noun": names[:-1]}, [])
    assert fewer.count("<img") == 1 and "The most frequent" not in fewer


def test_a_model_without_mistakes_or_without_labels_is_said_to_have_none() -> None:
    names = {"verb": ["a", "b", "c", "d"], "noun": ["e", "f", "g", "h"]}
    right = text_of(mistakes_section([answers(verb=[(0, 0, 0.9), (3, 3, 0.9)])], names, []))
    assert "0 of 2 clips were answered wrongly (verb), none of them" in right
    assert "No clip was taken for one of another class." in right and "confident mistakes" not in right
    assert mistakes_section([answers(verb=[(-1, 0, 0.9)])], names, []) == ""
    apart = answers(verb=[(0, 1, 0.9), (-1, 0, 0.9)], noun=[(-1, 0, 0.9), (1, 1, 0.9)])
    text = text_of(mistakes_section([apart], names, []))
    assert "No clip has a label in every head." in text and "a 1 0.0 b (1)" in text


@pytest.mark.parametrize("classes", [1, 2, MOST_CLASSES])
def test_a_matrix_shows_its_counts(classes: int) -> None:
    names, counts = [f"a class with a long name {i}" for i in range(classes)], np.eye(classes, dtype=np.int64) * 9
    other = counts.copy()
    other[0, -1] += 4
    assert confusion_matrix(counts, names) == confusion_matrix(counts, names) != confusion_matrix(other, names)
    assert confusion_matrix(np.zeros_like(counts), names).startswith("data:image/svg+xml;base64,")
