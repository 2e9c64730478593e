"""A model's card says what is on record, all of it from the records, and nothing else."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mmkd.card import gather, model_card, write_card
from mmkd.card.command import main
from mmkd.card.text import MARK
from mmkd.cost import flops_per_view
from mmkd.jobs import _write_card, distill, train_teacher
from mmkd.models import create_model, load_model, save_model
from mmkd.runs import write_json
from mmkd.scoring import score
from mmkd.teachers import SHIPPED
from tests.small import HEADS, small_settings


@pytest.fixture(scope="module")
def finished(home):
    """The run folder of a distillation."""
    return distill(small_settings(home, run={"name": "carded", "home": str(home), "local": True}))["run_folder"]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, with no other run beside it."""
    return shutil.copytree(finished, tmp_path / "runs" / "carded")


def change(path, keys, value):
    """Set one entry of a JSON or YAML file."""
    yaml_file = path.suffix == ".yaml"
    content = yaml.safe_load(path.read_text()) if yaml_file else json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    assert keys[-1] in place if isinstance(place, dict) else keys[-1] < len(place)
    place[keys[-1]] = value
    path.write_text(yaml.safe_dump(content) if yaml_file else json.dumps(content))


def evaluation(run, weights_hash, name="evaluate-carded", cost=True):
    """A finished evaluation of some weights beside the run; returns its figures."""
    rng = np.random.default_rng(0)
    logits = {head: rng.normal(size=(40, len(names))) for head, names in HEADS.items()}
    labels = {head: rng.integers(0, len(names), 40) for head, names in HEADS.items()}
    figures = score(logits, labels, temperatures={"verb": 2.5, "noun": 1.25})
    folder = run.parent / name
    folder.mkdir()
    costs = {"name": "carded", "latency_ms": 12.34, "clips_per_second": 567.0, "peak_mb": 8.9}
    scores = {"split": "test", "models": {"carded": {"views": {"2x3": figures}}}, "costs": [costs] if cost else []}
    write_json(folder / "identity.json", {"kind": "evaluation", "models": {"carded": weights_hash}})
    write_json(folder / "scores.json", scores)
    return figures


def hash_of(folder):
    return json.loads((folder / "model.json").read_text())["weights_hash"]


def section(card, title):
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_a_run_ends_with_a_card_that_says_what_it_recorded(finished, home):
    card = (home / "runs" / "carded" / "best" / "README.md").read_text()
    model = load_model(f"{finished}/best")
    learnt = model.spec.training
    assert card.startswith(MARK) and "# carded\n" in card and "distilled from an ensemble of teachers" in card
    assert f'mmkd.load_model("{finished}/best")' in card and "uint8 [batch, 4, 16, 16, 3]" in card
    assert "Classes of verb, in order: push, lift, drop." in card
    assert f"small, fingerprint {learnt['data']['fingerprint']}" in card and "37 clips of split train" in card
    for name, digest in learnt["teachers"].items():
        assert f"| {name} | {digest} |" in section(card, "Teachers")
    for head in ("verb", "noun"):
        figures = learnt["val"][head]
        assert f"| {head} | 11 | {100 * figures['accuracy']:.1f} % ± {100 * figures['standard_error']:.1f} |" in card
        assert f"| {100 * figures['ece']:.1f} | {figures['nll']:.2f} | {model.spec.temperatures[head]:.2f} |" in card
    assert f"{model.num_parameters:,}" in card
    assert f"{flops_per_view(model, model.spec.input) / 1e9:.3g}" in section(card, "Cost")
    assert f"seed {learnt['seed']}" in card and "No evaluation on other clips is on record" in card
    assert all(len(line) < 300 for line in card.splitlines())


RECORDS = [
    ("best/model.json", ("training", "val", "verb", "accuracy"), 0.123, "12.3 %"),
    ("best/model.json", ("training", "val", "noun", "ece"), 0.0987, "9.9"),
    ("best/model.json", ("training", "val", "noun", "nll"), 4.56, "4.56"),
    ("best/model.json", ("training", "val", "action", "n"), 987, "987"),
    ("best/model.json", ("temperatures", "verb"), 3.21, "3.21"),
    ("best/model.json", ("training", "competence", "weight", "verb", 1), 0.111, "0.11"),
    ("best/model.json", ("training", "competence", "weight", "noun", 0), 0.0, "left out"),
    ("best/model.json", ("training", "competence", "accuracy", "noun", 2), 0.789, "78.9 %"),
    ("best/model.json", ("training", "competence", "count", "verb", 0), 4321, "4321 (verb)"),
    ("best/model.json", ("training", "teachers", "flow"), "0123456789abcdef", "0123456789abcdef"),
    ("best/model.json", ("training", "data", "fingerprint"), "fedcba9876543210", "fedcba9876543210"),
    ("best/model.json", ("training", "data", "clips"), 4567, "4567 clips of split train"),
    ("best/model.json", ("training", "data", "made_by", "source"), "somewhere", "source somewhere"),
    ("best/model.json", ("training", "settings", "loss", "temperature"), 7.5, "temperature 7.5"),
    ("best/model.json", ("training", "settings", "optim", "lr"), 0.0625, "lr 0.0625"),
    ("best/model.json", ("training", "epoch"), 77, "77 of 2"),
    ("config.yaml", ("teachers", "gamma"), 0.375, "gamma 0.375"),
    ("config.yaml", ("student", "init"), "somebodys", "those of model somebodys"),
    ("result.json", ("seconds",), 1234.5, "1234.5 s"),
    ("result.json", ("broken_clips",), 3, "3 broken clips"),
]


@pytest.mark.parametrize(("file", "keys", "value", "said"), RECORDS, ids=[".".join(map(str, r[1])) for r in RECORDS])
def test_each_figure_is_that_of_the_record(run, file, keys, value, said):
    before = write_card(run / "best").read_text().splitlines()
    change(run / file, keys, value)
    after = write_card(run / "best").read_text().splitlines()
    new = [line for line in after if line not in before]
    assert new and any(said in line for line in new) and len(before) == len(after)
    assert not any(said in line for line in before if line not in after)


def test_a_student_s_card_names_predict(run):
    assert 'mmkd.predict(model, "clip.mp4")' in section(write_card(run / "best").read_text(), "Use")


def test_epochs_are_counted_from_the_metrics(run):
    assert "of 2, the best on split val" in write_card(run / "best").read_text()
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "epoch", "epoch": 3}) + "\n")
    assert "of 3, the best on split val" in write_card(run / "best").read_text()


def test_evaluations_of_the_same_weights_are_in_it_and_others_are_not(run):
    figures = evaluation(run, hash_of(run / "best"))
    card = write_card(run / "best").read_text()
    assert "40 labelled clips of split test (evaluate-carded)" in card and "| test, 2x3 views |" in card
    for head, own in figures.items():
        line = next(line for line in card.split("| test, 2x3 views |")[1].splitlines() if line.startswith(f"| {head} "))
        expected = [f"{100 * own['top1']:.1f} % ± {100 * own['top1_se']:.1f}", f"{100 * own['ece']:.1f}"]
        expected += [f"{100 * own['ece_floor']:.1f}", f"{own['nll']:.2f}"]
        expected += [{"verb": "2.50", "noun": "1.25", "action": "-"}[head]]
        expected += [f"{100 * own['scaled']['ece']:.1f}", f"{own['scaled']['nll']:.2f}"]
        assert line == f"| {head} | 40 | " + " | ".join(expected) + " |"
    assert "12.3 ms a view, 567 clips/s, 8.9 MB" in section(card, "Cost")
    assert "No evaluation on other clips" not in card
    change(run.parent / "evaluate-carded" / "identity.json", ("models", "carded"), "another")
    card = write_card(run / "best").read_text()
    assert "2x3" not in card and "12.3 ms" not in card and "No evaluation on other clips" in card


def test_an_evaluation_that_is_not_finished_is_passed_over(run):
    evaluation(run, hash_of(run / "best"))
    (run.parent / "evaluate-carded" / "scores.json").unlink()
    assert "No evaluation on other clips" in write_card(run / "best").read_text()


def test_what_is_not_on_record_is_said_to_be_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("MMKD_HOME", str(tmp_path / "home"))
    save_model(create_model("r2plus1d_tiny", HEADS, channels=(4, 8)), tmp_path / "bare")
    card = write_card(tmp_path / "bare").read_text()
    assert "# bare\n" in card and "How it was trained is unknown; it is not on record." in card
    assert "Unknown; it is not on record." in section(card, "Data")
    assert "Unknown; nothing is on record." in section(card, "Accuracy and calibration")
    assert "## Teachers" not in card and "## Training" not in card
    assert "| weights that it started from | unknown; it is not on record |" in card
    assert "| GFLOPs a view | unknown" in card and "%" not in card and "ECE" not in card


def test_a_copy_of_a_model_keeps_what_its_folder_records(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MMKD_HOME", str(tmp_path))
    copy = shutil.copytree(run / "best", tmp_path / "models" / "copy")
    card = write_card(copy).read_text()
    assert "# copy\n" in card and "| the validation split | labelled clips |" in card and "temperature" in card
    assert "How they were weighted is unknown." in card and "took" not in card
    evaluation(run, hash_of(copy))
    assert "40 labelled clips of split test (evaluate-carded)" in write_card(copy).read_text()


def test_a_teacher_s_card_says_that_it_learnt_from_labels(home):
    teacher = {"modality": "flow", "arch": "r2plus1d_tiny", "options": {"channels": [4, 8]}}
    own = {"run": {"name": "carded-teacher", "home": str(home), "local": True}, "teacher": teacher}
    loss = {"distill_weight": 0, "label_weight": 1}
    result = train_teacher(small_settings(home, **own, loss=loss, optim={"epochs": 1, "batch_size": 8}))
    card = (home / "runs" / "carded-teacher" / "best" / "README.md").read_text()
    assert result["epochs"] == 1 and "a teacher, trained on labels" in card
    assert "None: it learnt from labels." in section(card, "Teachers")
    assert "without those that teachers are weighed on" in section(card, "Data")
    assert "logits = model(flow)  # uint8 [batch, 4, 16, 16, 2], u and v" in card
    assert "mmkd.predict" not in card  # which sees RGB


def test_a_card_that_cannot_be_written_does_not_fail_a_training_that_is_done(run, capsys):
    (run / "best" / "README.md").write_text("# my own page")
    _write_card(SimpleNamespace(network=SimpleNamespace(arch="")), run / "best")
    assert "no model card was written" in capsys.readouterr().err
    assert (run / "best" / "README.md").read_text() == "# my own page"


def test_licences_are_those_that_are_known(run):
    def licence(of):
        card = write_card(run / "best").read_text()
        return next(line for line in card.splitlines() if line.startswith(f"| {of} | "))

    assert "unknown" in licence("data set small") and "unknown" in licence("teacher flow")
    assert "none: they were drawn at random" in licence("weights that it started from")
    change(run / "best" / "model.json", ("training", "data", "made_by"), {"source": "tabletop"})
    assert "Apache-2.0" in licence("data set small")
    assert "simulated" in section(write_card(run / "best").read_text(), "Limits")
    shipped = json.loads((SHIPPED / "flow" / "model.json").read_text())["weights_hash"]
    change(run / "best" / "model.json", ("training", "teachers", "flow"), shipped)
    assert "Apache-2.0" in licence("teacher flow") and "unknown" in licence("teacher rgb")
    change(run / "config.yaml", ("student", "weights"), "mine.pth")
    assert "those of the file mine.pth: unknown" in licence("weights that it started from")
    change(run / "config.yaml", ("student", "weights"), "default")
    assert "published for r2plus1d_tiny: unknown" in licence("weights that it started from")


def test_the_licence_of_timm_s_weights_is_the_one_that_timm_names(run, tmp_path):
    import timm

    folder = tmp_path / "runs" / "carded" / "best"
    shutil.rmtree(folder)
    save_model(create_model("timm/test_vit", HEADS), folder, {"kind": "labels"})
    change(run / "config.yaml", ("student", "weights"), "default")
    named = timm.get_pretrained_cfg("test_vit").license
    assert named and f"those published for timm/test_vit: {named}, says timm |" in write_card(folder).read_text()


def test_names_cannot_break_the_page(tmp_path):
    names = ["a|b", "<img src=x>", "two\n# lines", "[here](there)"]
    model = create_model("r2plus1d_tiny", {"verb": names}, channels=(4, 8))
    data = {"name": "x|y\n## z", "fingerprint": "f", "clips": 1, "made_by": {"source": "<b>"}}
    save_model(model, tmp_path / "m", {"data": data})
    card = write_card(tmp_path / "m").read_text()
    assert "a\\|b, &lt;img src=x>, two # lines, \\[here](there)." in card and "<img" not in card and "<b>" not in card
    assert "\n# lines" not in card and "\n## z" not in card and "| x\\|y ## z, fingerprint f |" in card


def test_a_readme_of_somebody_s_own_is_kept(run, capsys):
    path = run / "best" / "README.md"
    path.write_text("# Mine\n")
    with pytest.raises(SystemExit) as stopped:
        main([str(run)])
    assert stopped.value.code == 1 and "is not a card that mmkd wrote" in capsys.readouterr().err
    assert path.read_text() == "# Mine\n"
    main([str(run), "--force"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"card": str(path), "model": str(run / "best")}
    assert path.read_text().startswith(MARK)


def test_the_command_refuses_what_is_no_model_and_what_was_tampered_with(run, tmp_path, capsys):
    def refused(name):
        with pytest.raises(SystemExit) as stopped:
            main([str(name)])
        assert stopped.value.code == 1
        return capsys.readouterr().err

    assert "is no model folder" in refused(tmp_path / "nowhere")
    change(run / "best" / "model.json", ("training", "val"), 3)
    assert f"what is on record about {run / 'best'} cannot be read" in refused(run)
    change(run / "best" / "model.json", ("training", "val"), {})
    (run / "result.json").write_text("{")
    assert f"a record of {run / 'best'} cannot be read" in refused(run)
    with open(run / "best" / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert "changed or damaged after it was saved" in refused(run)


def test_the_page_is_a_function_of_the_facts(run):
    facts = gather(run / "best")
    assert model_card(facts) == model_card(gather(run / "best"))
    facts.gflops = None
    assert "| GFLOPs a view | unknown |" in model_card(facts)
