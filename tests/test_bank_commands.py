"""`python -m mmkd.bank inspect` and `verify`: a sound bank passes, and what is wrong with one is named."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmkd.bank.__main__ import main
from mmkd.bank.record import record
from mmkd.bank.store import Bank, BankWriter
from mmkd.bank.verify import choose_answers
from mmkd.plan import TEST_VIEW
from mmkd.reader import UNREADABLE
from mmkd.shards import read_manifest, read_rows
from tests.small import small_settings, write_dataset, write_teachers

pytestmark = pytest.mark.slow

VIEWS = {"distinct": 2, "randaugment": 2, "mixup": 0.5}


def spoil_rows(split, rows):
    if split == "train":
        rows[3]["flow"][0] = b"no jpeg"
        rows[4]["boxes"] = None
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A home with a recorded bank, of a data set with a broken clip and one that lacks its boxes."""
    root = tmp_path_factory.mktemp("home")
    write_dataset(root / "data" / "small", spoil_rows)
    write_teachers(root)
    views = small_settings(root).views.model_dump() | VIEWS
    data = {"folder": "small", "weigh_share": 0.3, "max_broken_share": 0.2}
    record(small_settings(root, views=views, data=data, teachers={"bank": "bank"}))
    return root


@pytest.fixture
def copied(root):
    """Copies of the bank, by name."""

    def copy(name):
        return shutil.copytree(root / "banks" / "bank", root / "banks" / name)

    return copy


@pytest.fixture
def run(root, capsys):
    """Run a command; returns its exit status, the JSON of its last line if there is one, and what people are told."""

    def run(command, folder, *flags):
        status = 0
        try:
            main([command, str(folder), "--run.home", str(root), *flags])
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr()
        lines = said.out.splitlines()
        return status, json.loads(lines[-1]) if lines else None, said.err

    return run


def teachers(root, *names):
    return ("--teachers.folders", *(str(root / "models" / name) for name in names or ("flow", "boxes", "rgb")))


def rewrite(folder, change, which):
    """Write answers anew, changed, with right checksums."""
    bank = Bank(folder)
    clips, views = bank.keys()
    chosen = which(clips, views)
    rows, _ = bank.read(clips[chosen], views[chosen])
    rows = {name: column.copy() for name, column in rows.items() if name != "crc"}
    change(rows)
    writer = BankWriter(folder, "zz")
    writer.add(rows)
    writer.flush()


def largest_part(folder):
    return max((folder / "parts").iterdir(), key=lambda path: path.stat().st_size)


def columns_of(part):
    group = pq.read_metadata(part).row_group(0)
    return [group.column(number) for number in range(group.num_columns)]


def test_a_fresh_bank_is_sound_and_inspect_says_what_it_holds(root, run):
    status, facts, said = run("inspect", "bank")
    assert status == 0 and facts["sound"] and facts["complete"] and not facts["superseded"]
    assert list(facts["teachers"]) == ["rgb", "flow", "boxes"] and facts["heads"] == {"verb": 3, "noun": 2}
    assert facts["answers_of_views"] == [37, 37] and 0 < facts["answers_of_test_view"] < 37
    assert facts["answers"] == 74 + facts["answers_of_test_view"]
    assert facts["broken_clips"] == {"a frame cannot be decoded, or claims an absurd size": 1}
    assert "views 0 to 1: 37 of 37 clips each" in said and "mixup 0.5" in said and "jitter 0.25" not in said
    on_disk = sum(path.stat().st_size for path in (root / "banks" / "bank" / "parts").iterdir())
    assert facts["over_raw_fp16_logits"] == pytest.approx(on_disk / (facts["answers"] * 3 * 5 * 2), abs=1e-3)


def test_a_fresh_bank_is_what_its_teachers_say(root, run):
    status, facts, said = run("verify", "bank", "--clips", "200", *teachers(root))
    assert status == 0 and facts["passed"] and facts["views"] == [TEST_VIEW, 0, 1]
    assert facts["answers"] == Bank(root / "banks" / "bank").rows
    for name in ("rgb", "flow", "boxes"):
        for head in ("verb", "noun"):
            assert facts["teachers"][name][head]["largest"] < 2e-3 and facts["teachers"][name][head]["same_class"] == 1
    assert facts["teachers"]["boxes"]["verb"]["answers"] < facts["teachers"]["rgb"]["verb"]["answers"]
    assert "as the teachers say" in said


def test_clips_whose_shard_could_not_be_read_are_asked_about_again(root, monkeypatch):
    data = {"folder": "small", "max_broken_share": 1.0}
    settings = small_settings(root, data=data, teachers={"bank": "away"})
    away = np.flatnonzero(read_manifest(root / "data" / "small", "train").file == 0)

    def read(manifest, clips, modalities):
        return [
            OSError("the store is away") if clip in away else next(iter(read_rows(manifest, [clip], modalities)))
            for clip in clips
        ]

    with monkeypatch.context() as storage:
        storage.setattr("mmkd.reader.read_rows", read)
        first = record(settings)
    again = record(settings)
    assert first["broken"] > len(away) > 0 and again["computed"] > 0
    rows, sound = Bank(root / "banks" / "away").read(away, np.zeros(len(away), np.int64))
    assert sound.all() and not (rows["status"] == UNREADABLE).any()
    assert record(settings)["computed"] == 0


def test_a_sample_is_seeded_and_spread_over_all_views(root):
    bank = Bank(root / "banks" / "bank")
    clips, views = choose_answers(bank, 15, 0)
    assert sorted(views.tolist()) == [TEST_VIEW] * 5 + [0] * 5 + [1] * 5 and bank.has(clips, views).all()
    assert len(set(zip(clips, views, strict=True))) == 15
    assert np.array_equal(choose_answers(bank, 15, 0), (clips, views))
    assert not np.array_equal(choose_answers(bank, 15, 1), (clips, views))


def test_the_command_finds_a_bank_by_name_path_or_relative_path(root, run):
    command = [sys.executable, "-m", "mmkd.bank", "inspect", "banks/bank", "--run.home", str(root / "elsewhere")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["bank"] == str(root / "banks" / "bank") and "teachers" in done.stderr
    assert run("inspect", root / "banks" / "bank")[1] == facts


def test_a_flipped_byte_is_found(root, run, copied):
    folder = copied("flipped")
    part = largest_part(folder)
    content = bytearray(part.read_bytes())
    (column,) = (c for c in columns_of(part) if c.path_in_schema == "logits/noun")
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 16
    part.write_bytes(content)
    status, facts, said = run("inspect", "flipped")
    assert status == 1 and not facts["sound"] and (facts["wrong_checksums"] or facts["damaged_parts"])
    assert "rayjobs/record.py" in said
    status, facts, said = run("verify", "flipped", "--clips", "200", *teachers(root))
    assert status == 1 and "wrong checksum, the first for clip train-" in said and not facts["passed"]


def test_a_truncated_part_is_found_and_named(root, run, copied):
    folder = copied("torn")
    part = largest_part(folder)
    part.write_bytes(part.read_bytes()[:-100])
    status, facts, said = run("inspect", "torn")
    assert status == 1 and list(facts["damaged_parts"]) == [part.name] and f"part {part.name}: " in said
    assert facts["answers"] < 74 and not facts["complete"] and "training views are missing" in said
    status, facts, said = run("verify", "torn", *teachers(root))
    assert status == 1 and facts is None and "holds no answer" in said


def test_clips_that_were_mixed_are_those_of_the_share_that_was_trained_on(root, run):
    views = small_settings(root).views.model_dump() | VIEWS | {"mixup": 1.0}
    data = {"folder": "small", "weigh_share": 0.3, "max_broken_share": 0.2, "train_share": 0.6}
    record(small_settings(root, views=views, data=data, teachers={"bank": "share"}))
    status, facts, _ = run("verify", "share", *teachers(root))
    assert status == 0 and facts["passed"]


@pytest.mark.parametrize("name", ["/etc", "../other", "s3://bucket/data?endpoint_override=http://127.0.0.1:9"])
def test_a_bank_does_not_choose_what_is_opened(root, run, copied, name):
    folder = copied("elsewhere")
    described = json.loads((folder / "bank.json").read_text())
    described["data"]["name"] = name
    (folder / "bank.json").write_text(json.dumps(described))
    status, facts, said = run("verify", "elsewhere", *teachers(root))
    shutil.rmtree(folder)
    assert status == 1 and facts is None and "--data.folder says which" in said


def test_other_logits_with_right_checksums_are_sound_but_not_what_the_teachers_say(root, run, copied):
    def change(rows):
        rows["logits/noun"][:, 1, 0] += 0.25

    folder = copied("changed")
    rewrite(folder, change, lambda clips, views: (clips == 20) & (views == 1))
    status, facts, _ = run("inspect", "changed")
    assert status == 0 and facts["superseded"] == 1 and facts["complete"]
    status, facts, said = run("verify", "changed", "--clips", "200", *teachers(root))
    assert status == 1 and not facts["passed"]
    worst = facts["worst"]
    assert (worst["teacher"], worst["head"], worst["clip"], worst["view"]) == ("flow", "noun", "train-020", 1)
    assert worst["stored"] - worst["live"] == pytest.approx(0.25, abs=1e-3)
    assert "1 of" in said and "noun logit of class 0 by teacher flow for clip train-020, view 1" in said
    status, facts, _ = run("verify", "changed", "--clips", "200", "--tolerance", "0.3", *teachers(root))
    assert status == 0 and facts["passed"]


def test_answers_to_another_view_and_of_other_clips_than_were_broken_are_found(root, run, copied):
    def other_view(rows):
        rows["parameters"]["indices"][:, 0] += 1

    rewrite(copied("redrawn"), other_view, lambda clips, views: (clips == 7) & (views == 0))
    status, _, said = run("verify", "redrawn", "--clips", "200", *teachers(root))
    assert status == 1 and "1 of" in said and "another view than is drawn for their number now, the first for" in said
    assert "clip train-007, view 0" in said

    def broken(rows):
        rows["status"][:], rows["present"][:] = 3, False

    rewrite(copied("broken"), broken, lambda clips, views: (clips == 8) & (views == 0))
    status, _, said = run("verify", "broken", "--clips", "200", *teachers(root))
    assert status == 1 and "only then or only now, the first for clip train-008, view 0" in said


def test_other_data_other_teachers_and_no_bank_are_refused(root, run):
    write_dataset(root / "data" / "other", lambda split, rows: rows[::-1])
    status, facts, said = run("verify", "bank", "--data.folder", "other", *teachers(root))
    assert status == 1 and facts is None and "is of data set small with fingerprint" in said
    status, facts, said = run("verify", "bank")
    hashes = json.loads((root / "banks" / "bank" / "bank.json").read_text())["teachers"]
    assert status == 1 and facts is None and all(f"{name} ({hashes[name]})" in said for name in hashes)
    status, facts, said = run("verify", "bank", *teachers(root, "rgb", "flow"))
    assert status == 1 and f"--teachers.folders: boxes ({hashes['boxes']})" in said
    for command in ("inspect", "verify"):
        status, facts, said = run(command, "nowhere")
        assert status == 1 and facts is None and f"{root / 'banks' / 'nowhere'} is not a bank" in said
