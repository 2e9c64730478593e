"""What the live benchmark says of measured rounds, whatever sides took part."""

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def live():
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        import live

        yield live
    finally:
        sys.path.pop(0)


def turns_of(live, *groups):
    """Three rounds of each group's sides, at 10 clips/s times their number, and of the stages at 40 over all cores."""

    def rows(number, name):
        return [{"clips_per_second": 10.0 * number + k, "cpu_seconds_per_clip": live.CORES / 40} for k in range(3)]

    return [
        {
            "rows": {name: rows(number, name) for number, name in enumerate(names, start=1)},
            "waited": dict.fromkeys(names, 0.5),
        }
        for names in groups
    ]


@pytest.mark.parametrize(
    ("groups", "asked"),
    [
        (
            [["auto", "plain-0", "plain-1", "stages"], ["ray", "plain-1", "stages"]],
            ["ray over plain-1, clips/s", "ray over the limit, clips/s"],
        ),
        ([["auto", "local"], ["ray"]], []),
        ([["auto", "stages"]], ["auto over the limit, clips/s"]),
        ([["plain-0", "stages"]], []),
        ([["auto", "plain-0"]], ["auto over plain-0, clips/s"]),
    ],
)
def test_the_better_of_ours_is_held_against_the_better_plain_loop_and_the_limit(live, groups, asked):
    found = live.figures(turns_of(live, *groups))
    assert [each["what"] for each in found if each["holds"] is not None] == asked


def test_ratios_are_of_the_same_round_and_the_limit_is_of_all_cores(live, capsys):
    turns = turns_of(live, ["auto", "plain-0", "stages"])
    over = live.over_plain(turns)
    assert over["auto"] == pytest.approx([10 / 20, 11 / 21, 12 / 22])
    assert over["stages"] == pytest.approx([40 / 20, 40 / 21, 40 / 22])
    live.show_turns(**turns[0])
    said = capsys.readouterr()
    lines = (said.err or said.out).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["auto", "11"], ["plain-0", "21"], ["limit", "40"]]


def test_sides_that_are_not_known_are_refused(live, capsys):
    with pytest.raises(SystemExit):
        live.main(["--sides", "rya"])
    assert "rya" in capsys.readouterr().err
