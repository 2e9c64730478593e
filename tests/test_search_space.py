"""A search space holds settings that can be searched, draws what their conditions allow, and refuses the rest."""

from collections import Counter

import optuna
import pytest
import yaml

from mmkd.config import Settings, SettingsError
from mmkd.config.changes import apply
from mmkd.sweep.space import FIELDS, Dimension, SearchSpace, parse_space, read_space

optuna.logging.set_verbosity(optuna.logging.WARNING)

EXAMPLE = """
loss.temperature: {loguniform: [1, 10]}
loss.label_weight: {uniform: [0, 1]}
optim.epochs: {integer: [2, 6]}
optim.lr: {loguniform: [1e-4, 1E-2]}
loss.kind: {choice: [kl, mse, dkd]}
loss.dkd_beta: {uniform: [1, 8], when: {loss.kind: dkd}}
teachers.gamma: {grid: [0.1, 0.5, 2]}
teachers.folders: {choice: [[rgb], [rgb, flow]]}
student.options: {choice: [{}, {dropout: 0.5}], when: {teachers.folders: [rgb, flow], teachers.gamma: [0.1, 2]}}
run.seed: {choice: [0, 1, 2]}
"""


def space(text: str) -> SearchSpace:
    return parse_space(yaml.safe_load(text), "space.yaml")


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as error:
        space(text)
    assert str(error.value).startswith("space.yaml")
    return str(error.value)


def check_refusal(text: str, **sections: dict) -> list[str]:
    with pytest.raises(SettingsError) as error:
        space(text).check(Settings.model_validate(sections))
    return str(error.value).splitlines()


def draws(the_space: SearchSpace, number: int, seed: int = 0) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [the_space.suggest(study.ask()) for _ in range(number)]


@pytest.fixture
def example(tmp_path) -> SearchSpace:
    (tmp_path / "space.yaml").write_text(EXAMPLE)
    return read_space(tmp_path / "space.yaml")


def test_a_file_is_read_in_its_order_and_its_values_are_those_of_settings(example):
    assert [each.name for each in example.dimensions] == list(yaml.safe_load(EXAMPLE))
    assert example.dimensions[3] == Dimension("optim.lr", "loguniform", [0.0001, 0.01])
    assert example.dimensions[5] == Dimension("loss.dkd_beta", "uniform", [1, 8], {"loss.kind": ["dkd"]})
    assert example.dimensions[8].when == {"teachers.folders": [["rgb", "flow"]], "teachers.gamma": [0.1, 2]}
    example.check(Settings())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no such file"),
        (b"loss.kind: {choice: [kl", "is not valid YAML"),
        (b"\xff\xfe\xff", "is not valid YAML"),
        (b"loss.kind: {choice: [kl, mse]}\nloss.kind: {choice: [dkd, kl]}", "loss.kind is listed twice"),
        (b"loss.kind: {choice: [kl, mse], choice: [dkd, kl]}", "choice is listed twice"),
        (b"", "is empty"),
        (b"{}", "is empty"),
        (b"- loss.kind", "is no mapping"),
    ],
)
def test_a_file_that_is_no_search_space_is_refused_and_named(tmp_path, content, expected):
    file = tmp_path / "my_space.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=expected) as error:
        read_space(str(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("loss.temprature: {uniform: [1, 2]}", "loss.temprature is not a setting; the closest is loss.temperature."),
        ("gamma: {uniform: [1, 2]}", "gamma is not a setting; the closest is teachers.gamma."),
        ("1: {uniform: [1, 2]}", "1 is not a setting"),
        ("loss: {kind: {choice: [kl, mse]}}", "loss is a section; list its settings by their dotted names"),
        ("loss.kind: [kl, mse]", 'loss.kind is ["kl", "mse"]; it needs one of uniform, loguniform, integer, choice'),
        ("loss.kind: {}", "loss.kind is {}; it needs one of"),
        ("loss.kind: {choose: [kl, mse]}", "loss.kind has choose; it needs one of"),
        ("loss.kind: {choice: [kl], wen: {run.seed: 1}}", "loss.kind has choice, wen; it needs one of"),
        ("optim.lr: {uniform: [1, 2], loguniform: [1, 2]}", "optim.lr has uniform, loguniform; it needs one of"),
        ("loss.kind: {choice: []}", "loss.kind: choice is []; it must be a list of values"),
        ("loss.kind: {grid: kl}", "loss.kind: grid is kl; it must be a list of values"),
        ("loss.kind: {choice: [kl, mse, kl]}", 'loss.kind: choice is ["kl", "mse", "kl"], with kl twice'),
        ("optim.lr: {uniform: []}", "optim.lr: uniform is []; it must be two numbers"),
        ("optim.lr: {uniform: [1]}", "optim.lr: uniform is [1]; it must be two numbers"),
        ("optim.lr: {uniform: [1, 2, 3]}", "optim.lr: uniform is [1, 2, 3]; it must be two numbers"),
        ("optim.lr: {uniform: 3}", "optim.lr: uniform is 3; it must be two numbers"),
        ("optim.lr: {uniform: [low, 1]}", 'optim.lr: uniform is ["low", 1]; it must be two numbers'),
        ("optim.lr: {uniform: [false, 1]}", "optim.lr: uniform is [false, 1]; it must be two numbers"),
        ("optim.lr: {uniform: [0, .inf]}", "optim.lr: uniform is [0, Infinity]; it must be two numbers"),
        ("optim.lr: {uniform: [.nan, 1]}", "optim.lr: uniform is [NaN, 1]; it must be two numbers"),
        ("optim.epochs: {integer: [1, 2.5]}", "optim.epochs: integer is [1, 2.5]; it must be two whole numbers"),
        ("optim.lr: {uniform: [2, 1]}", "optim.lr: uniform is [2, 1]; the first must be less than the second"),
        ("optim.epochs: {integer: [2, 2]}", "optim.epochs: integer is [2, 2]; the first must be less than the second"),
        ("optim.lr: {loguniform: [0, 1]}", "optim.lr: loguniform is [0, 1]; it must begin above 0"),
        ("optim.lr: {loguniform: [-1, 1]}", "optim.lr: loguniform is [-1, 1]; it must begin above 0"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_its_name_and_what_it_must_be(entry, expected):
    assert expected in refusal("run.seed: {choice: [0, 1]}\n" + entry)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("dkd", "when is dkd; it must map settings to values"),
        ("{}", "when is {}; it must map settings to values"),
        ("{loss.label_weight: 1}", "when names loss.label_weight, which must be listed before it"),
        ("{optim.name: adamw}", "when names optim.name, which must be listed before it"),
        ("{loss.dkd_beta: 1}", "when names loss.dkd_beta, which must be listed before it"),
        ("{loss.temperature: 2}", "when names loss.temperature, which must be listed before it, as choice or integer"),
        ("{loss.kind: hard}", "when loss.kind is hard, which it never is: it is kl, mse or dkd"),
        ("{loss.kind: [dkd, hard, soft_ce]}", "when loss.kind is hard or soft_ce, which it never is"),
        ("{loss.kind: []}", "when loss.kind is nothing, which it never is"),
        ("{optim.epochs: 7}", "when optim.epochs is 7, which it never is: it is 2 to 6, whole numbers"),
        ("{optim.epochs: 2.5}", "when optim.epochs is 2.5, which it never is"),
        ("{teachers.folders: rgb}", 'when teachers.folders is rgb, which it never is: it is ["rgb"] or ["flow"]'),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(when, expected):
    before = """
        loss.temperature: {uniform: [1, 4]}
        loss.kind: {choice: [kl, mse, dkd]}
        optim.epochs: {integer: [2, 6]}
        teachers.folders: {choice: [[rgb], [flow]]}
        loss.dkd_beta: {uniform: [1, 8], when: WHEN}
        loss.label_weight: {uniform: [0, 1]}
    """
    assert f"loss.dkd_beta: {expected}" in refusal(before.replace("WHEN", when))


def test_only_what_trials_do_not_share_is_searched():
    searched = set()
    for name in FIELDS:
        try:
            parse_space({name: {"choice": [0]}}, "space.yaml")
            searched.add(name)
        except SettingsError as error:
            assert f"{name} " in str(error) and "a sweep cannot search it" in str(error)
    own = {name for name in FIELDS if name.split(".")[0] in ("loss", "optim", "student")}
    own -= {"student.modality"} | {name for name in own if name.startswith("loss.feature_")}
    teachers = {f"teachers.{name}" for name in ("weighting", "gamma", "ensemble", "drop_near_chance", "folders")}
    assert {"loss.kind", "optim.lr", "student.options"} < own
    assert searched == own | teachers | {"run.seed"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("views.size", "decides what teachers see, whose answers all trials share"),
        ("data.folder", "decides what teachers see, whose answers all trials share"),
        ("loss.feature_weight", "needs live teachers"),
        ("student.modality", "is rgb for every student"),
        ("teacher.arch", "is for training a teacher"),
        ("teachers.actors", "is about how a job is carried out, not what comes of it"),
        ("run.home", "is about how a job is carried out, not what comes of it"),
        ("resources.workers", "is about how a job is carried out, not what comes of it"),
    ],
)
def test_what_is_not_searched_is_refused_with_the_reason(name, why):
    assert f"{name} {why}" in refusal(f"{name}: {{choice: [1, 2]}}")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("loss.kind: {choice: [kl, klo]}", ["loss.kind: Input should be 'kl', ", "(given: 'klo')"]),
        ("loss.temperature: {uniform: [0, 4]}", ["loss.temperature: Input should be greater than 0 (given: 0)"]),
        ("loss.label_smoothing: {uniform: [0, 1]}", ["loss.label_smoothing: Input should be less than 1 (given: 1)"]),
        ("optim.epochs: {integer: [0, 4]}", ["optim.epochs: Input should be greater than 0 (given: 0)"]),
        ("optim.epochs: {choice: [1, 2.5]}", ["optim.epochs: Input should be a valid integer", "(given: 2.5)"]),
        ("optim.epochs: {uniform: [1, 4]}", ["optim.epochs takes whole numbers; search it as integer instead of unif"]),
        (
            "run.seed: {loguniform: [1, 4]}",
            ["run.seed takes whole numbers; search it as integer instead of loguniform"],
        ),
        ("optim.compile: {integer: [0, 1]}", ["optim.compile is not a number", "list its values as choice"]),
        ("loss.kind: {uniform: [0, 1]}", ["loss.kind is not a number", "list its values as choice"]),
        (
            "teachers.folders: {choice: [rgb, [flow]]}",
            ["teachers.folders: Input should be a valid list (given: 'rgb')"],
        ),
        ("teachers.folders: {choice: [[3]]}", ["teachers.folders.0: Input should be a valid string (given: 3)"]),
        ("student.options: {choice: [null]}", ["student.options: Input should be a valid dictionary (given: None)"]),
        ("optim.name: {choice: [2020-01-01]}", ["optim.name: Input should be a valid string"]),
    ],
)
def test_check_refuses_values_that_their_setting_cannot_have(entry, expected):
    (line,) = check_refusal(entry)
    assert line.startswith("space.yaml: ") and all(part in line for part in expected)


def test_check_has_a_line_for_every_fault():
    lines = check_refusal("loss.kind: {choice: [a, kl, b]}\noptim.lr: {uniform: [-1, 0]}\nrun.seed: {choice: [1]}")
    assert [line.split(": ")[1] for line in lines] == ["loss.kind", "loss.kind", "optim.lr", "optim.lr"]


def test_check_leaves_to_apply_what_is_wrong_only_in_combination():
    the_space = space("loss.distill_weight: {choice: [0, 1]}\nloss.label_weight: {choice: [0, 1]}")
    for settings in (Settings(), Settings.model_validate({"loss": {"distill_weight": 0, "label_weight": 1}})):
        the_space.check(settings)
        valid = []
        for values in the_space.combinations():
            try:
                valid.append(apply(settings, values).loss.label_weight)
            except SettingsError as error:
                assert "both 0: there is nothing to learn from" in str(error)
                assert values == {"loss.distill_weight": 0, "loss.label_weight": 0}
        assert valid == [1, 0, 1]


def test_draws_stay_inside_and_cover_what_is_searched(example):
    drawn = draws(example, 300)
    values = {name: [each[name] for each in drawn if name in each] for name in FIELDS}
    for name, low, high in (
        ("loss.temperature", 1, 10),
        ("loss.label_weight", 0, 1),
        ("loss.dkd_beta", 1, 8),
        ("optim.lr", 1e-4, 1e-2),
    ):
        tenth = (high - low) / 10
        assert low <= min(values[name]) < low + tenth and high - tenth < max(values[name]) <= high
    assert set(values["optim.epochs"]) == {2, 3, 4, 5, 6}
    assert all(type(each) is int for each in values["optim.epochs"])
    assert set(values["loss.kind"]) == {"kl", "mse", "dkd"} and set(values["teachers.gamma"]) == {0.1, 0.5, 2}
    assert Counter(map(str, values["teachers.folders"])).keys() == {"['rgb']", "['rgb', 'flow']"}
    assert {} in values["student.options"] and {"dropout": 0.5} in values["student.options"]
    below = sum(each < 1e-3 for each in values["optim.lr"])
    assert 120 < below < 180, "half of the logarithmic range is below its geometric mean"
    for each in drawn:
        apply(Settings(), each)


def test_a_setting_is_drawn_where_its_condition_holds_and_nowhere_else(example):
    for each in draws(example, 200):
        assert ("loss.dkd_beta" in each) == (each["loss.kind"] == "dkd")
        both = each["teachers.folders"] == ["rgb", "flow"] and each["teachers.gamma"] in (0.1, 2)
        assert ("student.options" in each) == both


def test_a_condition_does_not_hold_where_its_setting_was_not_drawn():
    chain = space("""
        loss.kind: {choice: [kl, dkd]}
        loss.dkd_beta: {choice: [1, 8], when: {loss.kind: dkd}}
        loss.dkd_alpha: {choice: [0, 1], when: {loss.dkd_beta: [1, 8]}}
    """)
    sets = {tuple(each) for each in draws(chain, 50)}
    assert sets == {("loss.kind",), ("loss.kind", "loss.dkd_beta", "loss.dkd_alpha")}


def test_draws_are_those_of_the_seed(example):
    assert draws(example, 20, seed=1) == draws(example, 20, seed=1) != draws(example, 20, seed=2)


def test_optunas_parameters_have_the_names_of_settings_and_scalar_values(example):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        drawn = example.suggest(trial)
        assert list(trial.params) == list(drawn)
        assert all(isinstance(value, str | int | float) for value in trial.params.values())
        scalars = {name: value for name, value in drawn.items() if not isinstance(value, list | dict)}
        assert {name: trial.params[name] for name in scalars} == scalars


def test_a_search_that_learns_can_use_the_space(example):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))
    study.optimize(lambda trial: apply(Settings(), example.suggest(trial)).loss.temperature, n_trials=15)
    assert len(study.trials) == 15 and study.best_value < 2


def test_combinations_are_all_and_none_twice():
    the_space = space("""
        loss.kind: {choice: [kl, mse, dkd]}
        loss.dkd_beta: {grid: [1, 8], when: {loss.kind: dkd}}
        loss.temperature: {grid: [1, 2, 4], when: {loss.kind: [kl, dkd]}}
        teachers.folders: {choice: [[rgb], [rgb, flow]]}
    """)
    found = the_space.combinations()
    assert len(found) == (3 + 1 + 2 * 3) * 2
    assert all(each not in found[:at] for at, each in enumerate(found))
    assert found[:2] == [
        {"loss.kind": "kl", "loss.temperature": 1, "teachers.folders": ["rgb"]},
        {"loss.kind": "kl", "loss.temperature": 1, "teachers.folders": ["rgb", "flow"]},
    ]
    assert [each for each in found if each["loss.kind"] == "mse"] == [
        {"loss.kind": "mse", "teachers.folders": ["rgb"]},
        {"loss.kind": "mse", "teachers.folders": ["rgb", "flow"]},
    ]
    assert all(each in found for each in draws(the_space, 50))


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "integer"])
def test_ranges_have_no_combinations(kind):
    the_space = space(f"loss.kind: {{choice: [kl]}}\noptim.lr: {{{kind}: [1, 2]}}\nloss.dkd_beta: {{{kind}: [1, 2]}}")
    with pytest.raises(SettingsError, match=r"space\.yaml: .*: optim\.lr, loss\.dkd_beta\. List the values"):
        the_space.combinations()


def test_a_description_says_what_is_searched_and_where(example):
    sections = {"optim": {"lr": 0.5}, "loss": {"kind": "hard"}, "teachers": {"folders": ["rgb"]}, "run": {"seed": 2}}
    assert example.describe(Settings.model_validate(sections)) == [
        ("loss.temperature", "1 to 10, logarithmic"),
        ("loss.label_weight", "0 to 1"),
        ("optim.epochs", "2 to 6, whole numbers; without the present 9"),
        ("optim.lr", "0.0001 to 0.01, logarithmic; without the present 0.5"),
        ("loss.kind", "kl, mse or dkd; without the present hard"),
        ("loss.dkd_beta", "1 to 8, where loss.kind is dkd"),
        ("teachers.gamma", "0.1, 0.5 or 2"),
        ("teachers.folders", '["rgb"] or ["rgb", "flow"]'),
        (
            "student.options",
            '{} or {"dropout": 0.5}, where teachers.folders is ["rgb", "flow"] and teachers.gamma is 0.1 or 2',
        ),
        ("run.seed", "0, 1 or 2"),
    ]


def test_apply_sets_the_values_and_changes_nothing_else():
    sections = {"student": {"options": {"channels": [4], "dropout": 0.1}}, "loss": {"temperature": 3.0}}
    settings = Settings.model_validate(sections)
    before = settings.model_dump()
    values = {"student.options": {"dropout": 0.5}, "loss.label_weight": 1, "teachers.folders": ["rgb"], "run.seed": 4}
    changed = apply(settings, values)
    assert settings.model_dump() == before
    expected = settings.model_dump()
    expected["student"]["options"] = {"dropout": 0.5}
    expected["loss"]["label_weight"], expected["teachers"]["folders"], expected["run"]["seed"] = 1.0, ["rgb"], 4
    assert changed.model_dump() == expected
    assert apply(settings, {}) == settings


def test_apply_refuses_with_a_line_for_each_fault():
    with pytest.raises(SettingsError) as error:
        apply(Settings(), {"optim.epochs": 0, "loss.temprature": 1, "loss.kind": "klo", "nothing.at_all": 1, "lr": 1})
    lines = str(error.value).splitlines()
    starts = ["loss.kind: ", "loss.temprature is not a setting", "optim.epochs: ", "nothing is not", "lr is not"]
    assert len(lines) == len(starts) and all(any(line.startswith(each) for line in lines) for each in starts)
    with pytest.raises(SettingsError, match="nothing to learn from"):
        apply(Settings(), {"loss.distill_weight": 0})
