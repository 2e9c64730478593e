"""The study as a whole, on the small data, in one process."""

import json

from mmkd.study.job import study
from tests.small import small_settings


def test_a_study_trains_tests_and_reports_and_a_second_call_finds_all_there(home, capsys):
    settings = small_settings(
        home,
        run={"name": "study"},
        teachers={"folders": [], "drop_near_chance": False},
        study={
            "seeds": 1,
            "more_seeds": 1,
            "groups": ["weighting", "data"],
            "search_lr": [2e-3],
            "search_epochs": [1],
            "teacher_epochs": 1,
            "teacher_sets": 1,
            "shares": [0.5],
            "views": "2x3",
        },
        data={"folder": "small", "weigh_share": 0.4},
        views={"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1, "distinct": 2},
    )
    result = study(settings)
    run = home / "runs" / "study"
    assert (run / "study.html").is_file() and (run / "tables" / "students.csv").is_file()
    print(json.dumps(result, indent=1))
    print(capsys.readouterr().err[-3000:])
    study(settings)
    assert "is finished" in capsys.readouterr().err
