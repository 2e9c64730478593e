"""The logit bank: what is replayed is what the teachers said, and nothing else passes for it."""

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmkd.bank import store
from mmkd.bank.description import Description, make_bank
from mmkd.bank.record import record
from mmkd.bank.rows import Layout, keys_of, view_type
from mmkd.bank.store import Bank, BankWriter
from mmkd.config import SettingsError, Views
from mmkd.jobs import distill
from mmkd.plan import TEST_VIEW
from mmkd.runs import read_lines, read_metrics, write_json
from mmkd.shards import read_manifest
from mmkd.views import make_view
from tests.small import small_settings, write_dataset, write_teachers

VIEWS = {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1, "distinct": 2}


def settings_of(home, name, **sections):
    base = {"views": VIEWS, "run": {"name": name}, "optim": {"epochs": 3, "batch_size": 8, "warmup_epochs": 0.5}}
    return small_settings(home, **{key: base.get(key, {}) | sections.get(key, {}) for key in base | sections})


def teachers(mode, bank="bank", **more):
    return {"folders": ["rgb", "flow", "boxes"], "drop_near_chance": False, "mode": mode, "bank": bank, **more}


def losses(home, name):
    return [row["loss"] for row in read_metrics(home / "runs" / name) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def recorded(home):
    """A run with live teachers, and one that records."""
    distill(settings_of(home, "bank-live"))
    result = distill(settings_of(home, "bank-record", teachers=teachers("record")))
    return home / "banks" / "bank", result


def copy_of(recorded, home, name):
    folder = home / "banks" / name
    shutil.copytree(recorded[0], folder)
    return folder


def test_recording_changes_nothing_and_keeps_each_view_once(recorded, home):
    folder, result = recorded
    assert losses(home, "bank-record") == losses(home, "bank-live")
    bank = Bank(folder)
    manifest = read_manifest(home / "data" / "small", "train")
    weighed = int(bank.has(np.arange(37), np.full(37, TEST_VIEW)).sum())
    assert 0 < weighed < 37 and bank.rows == 2 * 37 + weighed and not bank.damaged
    assert bank.has(*keys_of(np.zeros(0, np.int64), np.arange(37), 2)).all()
    assert not bank.has(np.arange(37), np.full(37, 2)).any()
    assert sum(pq.read_metadata(folder / "parts" / name).num_rows for name in bank.parts) == bank.rows
    rows, sound = bank.read(np.array([5]), np.array([1]))
    assert sound.all()
    view = make_view(settings_of(home, "x").views, manifest.clip_ids[5], int(manifest.num_frames[5]), 1)
    stored = rows["parameters"][0]
    assert stored["indices"].tolist() == view.indices.tolist() and stored["flip"] == view.flip
    assert stored["jitter"].tolist() == pytest.approx(view.jitter) and stored["scale"] == pytest.approx(view.scale)
    assert result["teacher_answers"] == {"computed": 3 * (3 * 37 + weighed), "replayed": 0}
    described = json.loads((folder / "bank.json").read_text())
    assert described["coverage"]["answers"] == bank.rows and described["kept_views"] == 2
    assert list(described["teachers"]) == ["rgb", "flow", "boxes"] and described["data"]["split"] == "train"


def test_replay_starts_no_teacher_and_gives_the_losses_to_fp16(recorded, home, monkeypatch):
    monkeypatch.setattr("mmkd.pipeline.make_ensemble", None)  # whoever calls it fails
    result = distill(settings_of(home, "bank-replay", teachers=teachers("replay"), run={"seed": 0}))
    assert losses(home, "bank-replay") == pytest.approx(losses(home, "bank-live"), rel=2e-3, abs=2e-4)
    assert losses(home, "bank-replay") != losses(home, "bank-live")
    assert result["teacher_answers"]["computed"] == 0 and result["teacher_answers"]["replayed"] > 0
    judged = [
        json.loads((home / "runs" / name / "competence.json").read_text()) for name in ("bank-live", "bank-replay")
    ]
    assert judged[1]["weight"]["verb"] == pytest.approx(judged[0]["weight"]["verb"], abs=1e-3)
    assert judged[1]["count"] == judged[0]["count"]


def test_replay_reads_what_the_student_sees_and_nothing_else(recorded, home, monkeypatch):
    from mmkd import pipeline

    seen = set()
    read = pipeline.read_unit

    def spy(dataset, manifest, views, clips, numbers, modalities, **more):
        seen.add(tuple(modalities))
        return read(dataset, manifest, views, clips, numbers, modalities, **more)

    monkeypatch.setattr(pipeline, "read_unit", spy)
    distill(settings_of(home, "bank-reads", teachers=teachers("replay"), optim={"epochs": 1}))
    assert seen == {(), ("rgb",)}


def test_another_run_seed_and_some_of_the_teachers_replay_one_bank(recorded, home):
    some = teachers("replay") | {"folders": ["boxes", "rgb"]}
    distill(settings_of(home, "bank-some-live", teachers=some | {"mode": "live"}, run={"seed": 7}))
    distill(settings_of(home, "bank-some", teachers=some, run={"seed": 7}))
    assert losses(home, "bank-some") == pytest.approx(losses(home, "bank-some-live"), rel=2e-3, abs=2e-4)


def test_a_bank_suffices_without_the_teachers(recorded, home, tmp_path):
    (tmp_path / "data").symlink_to(home / "data")
    copied = tmp_path / "banks" / "bank"
    shutil.copytree(recorded[0], copied)
    distill(settings_of(tmp_path, "alone", teachers=teachers("replay") | {"folders": []}))
    assert losses(tmp_path, "alone") == pytest.approx(losses(home, "bank-live"), rel=2e-3, abs=2e-4)


def test_auto_computes_what_is_missing_once_and_uses_it_in_later_epochs(home, recorded):
    bank = home / "banks" / "auto"
    result = distill(settings_of(home, "bank-auto", teachers=teachers("auto", "auto"), optim={"epochs": 4}))
    weighed = Bank(bank).rows - 2 * 37
    assert result["teacher_answers"] == {"computed": 3 * (2 * 37 + weighed), "replayed": 3 * 2 * 37}
    again = distill(settings_of(home, "bank-auto-2", teachers=teachers("auto", "auto"), run={"seed": 3}))
    assert again["teacher_answers"]["computed"] == 0
    assert Bank(bank).rows == 2 * 37 + weighed


def test_a_bank_that_is_named_by_nobody_is_named_by_what_it_is_made_of(home):
    one = distill(settings_of(home, "named-1", teachers=teachers("auto", ""), optim={"epochs": 1}))["bank"]
    other = {"views": VIEWS | {"scale": (1.0, 1.1)}, "teachers": teachers("auto", ""), "optim": {"epochs": 1}}
    assert (
        one.startswith(str(home / "banks" / "small-")) and distill(settings_of(home, "named-2", **other))["bank"] != one
    )
    same = distill(settings_of(home, "named-3", teachers=teachers("auto", ""), optim={"epochs": 1}, run={"seed": 2}))
    assert same["bank"] == one and same["teacher_answers"]["computed"] == 0


def test_other_teachers_views_and_data_are_refused_by_name(recorded, home, tmp_path):
    replay = {"teachers": teachers("replay")}
    with pytest.raises(SettingsError, match=r"views\.jitter 0\.25 \(here 0\.1\)"):
        distill(settings_of(home, "no-1", views=VIEWS | {"jitter": 0.1}, **replay))
    with pytest.raises(SettingsError, match=r"views\.seed 0 \(here 4\)"):
        distill(settings_of(home, "no-2", views=VIEWS | {"seed": 4}, teachers=teachers("record")))
    elsewhere = tmp_path / "home"
    write_dataset(elsewhere / "data" / "small", lambda split, rows: rows[::-1])
    write_teachers(elsewhere)
    shutil.copytree(recorded[0], elsewhere / "banks" / "bank")
    with pytest.raises(SettingsError, match=r"data\.fingerprint '\w+' \(here '\w+'\)"):
        distill(settings_of(elsewhere, "no-3", **replay))
    other = home / "models" / "other"
    shutil.copytree(home / "models" / "rgb", other, dirs_exist_ok=True)
    described = json.loads((other / "model.json").read_text())
    from mmkd.models import load_model, save_model

    model = load_model(other)
    model.heads["verb"].bias.data += 1.0
    save_model(model, other)
    assert json.loads((other / "model.json").read_text())["weights_hash"] != described["weights_hash"]
    with pytest.raises(SettingsError, match=r"other teachers' answers: it lacks rgb \(\w+\)"):
        distill(settings_of(home, "no-4", teachers=teachers("replay") | {"folders": ["other", "flow", "boxes"]}))
    with pytest.raises(SettingsError, match=r"it has boxes \(\w+\)"):
        distill(settings_of(home, "no-5", teachers=teachers("record") | {"folders": ["rgb", "flow"]}))
    with pytest.raises(SettingsError, match=r"is not a bank"):
        distill(settings_of(home, "no-6", teachers=teachers("replay", "nowhere")))
    with pytest.raises(SettingsError, match=r"lacks 37 of the \d+ answers .* --views\.distinct 2"):
        distill(settings_of(home, "no-7", views=VIEWS | {"distinct": 3}, **replay))
    with pytest.raises(SettingsError, match="feature_weight needs live teachers"):
        distill(settings_of(home, "no-8", loss={"feature_weight": 1.0}, **replay))


def spoil(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def test_a_truncated_part_is_refused_in_replay_and_mended_by_auto(recorded, home):
    folder = copy_of(recorded, home, "torn")
    part = max((folder / "parts").iterdir(), key=lambda path: path.stat().st_size)
    spoil(part, lambda content: content.__delitem__(slice(-200, None)))
    with pytest.raises(SettingsError, match=rf"lacks \d+ of the \d+ answers .* Part {part.name} cannot be read"):
        distill(settings_of(home, "torn", teachers=teachers("replay", "torn")))
    result = distill(settings_of(home, "torn", teachers=teachers("auto", "torn")))
    assert 0 < result["teacher_answers"]["computed"] < result["teacher_answers"]["replayed"] + 500
    distill(settings_of(home, "torn-2", teachers=teachers("replay", "torn")))
    assert losses(home, "torn-2") == pytest.approx(losses(home, "bank-live"), rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_noticed_refused_in_replay_and_mended_by_auto(recorded, home, seed):
    name = f"flipped-{seed}"
    folder = copy_of(recorded, home, name)
    rng = np.random.default_rng(seed)
    for part in (folder / "parts").iterdir():

        def flip(content):
            for place in rng.integers(4, len(content) // 3, 6):
                content[place] ^= 1 << int(rng.integers(8))

        spoil(part, flip)
    with pytest.raises(ValueError, match=r"damaged answer|lacks \d+ of|another view"):
        distill(settings_of(home, name, teachers=teachers("replay", name)))
    result = distill(settings_of(home, name, teachers=teachers("auto", name)))
    assert result["teacher_answers"]["computed"] > 0
    assert losses(home, name) == pytest.approx(losses(home, "bank-live"), rel=2e-3, abs=2e-4)
    distill(settings_of(home, f"{name}-again", teachers=teachers("replay", name)))
    assert losses(home, f"{name}-again") == pytest.approx(losses(home, "bank-live"), rel=2e-3, abs=2e-4)


def test_on_a_full_disk_the_training_stops_or_goes_on_and_the_bank_stays_valid(home, monkeypatch):
    write, full = store.write_part, []

    def disk(path, *args):
        if full:
            path.write_bytes(b"PAR1 half a part")
            raise OSError(errno.ENOSPC, "No space left on device")
        full.append(path)
        return write(path, *args)

    monkeypatch.setattr(store, "write_part", disk)
    with pytest.raises(ValueError, match=r"No space left on device. Make room, and the same command goes on"):
        distill(settings_of(home, "full", teachers=teachers("record", "full")))
    bank = Bank(home / "banks" / "full")
    assert bank.rows > 37 and not bank.damaged and not list((home / "banks" / "full").glob("**/*.partial"))
    result = distill(settings_of(home, "full", teachers=teachers("record", "full", if_bank_fails="go_on")))
    assert result["epochs"] == 3 and Bank(home / "banks" / "full").rows == bank.rows
    (notice,) = read_lines(home / "runs" / "full" / "notices.jsonl")
    assert "the bank is valid for what it holds" in notice["text"]
    monkeypatch.undo()
    distill(settings_of(home, "full-2", teachers=teachers("auto", "full")))
    assert Bank(home / "banks" / "full").rows > bank.rows


def test_broken_clips_and_missing_modalities_are_replayed_as_they_were(tmp_path):
    def spoil_rows(split, rows):
        if split == "train":
            rows[3]["flow"][0] = b"no jpeg"
            rows[4]["boxes"] = None
        return rows

    write_dataset(tmp_path / "data" / "small", spoil_rows)
    write_teachers(tmp_path)
    data = {"folder": "small", "weigh_share": 0.3, "max_broken_share": 0.2}
    for mode in ("live", "record", "replay"):
        distill(settings_of(tmp_path, mode, data=data, teachers=teachers(mode)))
    assert losses(tmp_path, "replay") == pytest.approx(losses(tmp_path, "live"), rel=2e-3, abs=2e-4)
    rejects = [read_lines(tmp_path / "runs" / mode / "rejects.jsonl") for mode in ("live", "replay")]
    assert rejects[0] == rejects[1] and rejects[0]


def test_mixed_views_and_repeats_are_part_of_the_bank(home):
    views = VIEWS | {"mixup": 0.5, "cutmix": 0.5, "repeats": 2, "distinct": 0, "randaugment": 2, "flip": True}
    for mode in ("live", "record", "replay"):
        distill(settings_of(home, f"mixed-{mode}", views=views, teachers=teachers(mode, "mixed"), optim={"epochs": 1}))
    assert losses(home, "mixed-replay") == pytest.approx(losses(home, "mixed-live"), rel=2e-3, abs=2e-4)
    rows, sound = Bank(home / "banks" / "mixed").read(np.arange(5), np.full(5, 1))
    assert sound.all() and rows["parameters"].dtype["operation"].shape == (2,)
    assert (rows["parameters"]["share"] < 1).any()


def test_recording_passes_that_share_the_clips_fill_one_bank_which_a_training_then_replays(recorded, home, capsys):
    done = []
    for part in ("1/2", "2/2", "1/1"):
        done.append(record(settings_of(home, "x", teachers=teachers("live", "passes", bank_part=part))))
    assert [each["computed"] > 0 for each in done] == [True, True, False] and done[1]["missing"] == 0
    assert done[0]["computed"] + done[1]["computed"] == 3 * Bank(home / "banks" / "passes").rows
    assert Bank(home / "banks" / "passes").rows == Bank(recorded[0]).rows
    distill(settings_of(home, "passes", teachers=teachers("replay", "passes")))
    assert losses(home, "passes") == pytest.approx(losses(home, "bank-live"), rel=2e-3, abs=2e-4)
    with pytest.raises(SettingsError, match="bank_part is 3/2"):
        record(settings_of(home, "x", teachers=teachers("live", "passes", bank_part="3/2")))


LAYOUT_VIEWS = Views(frames=2, jitter=0.1)


def small_bank(folder, clips=50, heads=None):
    heads = heads or {"verb": 3}
    data = {"name": "x", "fingerprint": "f", "split": "train", "clips": clips}
    described = Description({"a": "1", "b": "2"}, data, heads, {"seed": 0}, view_type(LAYOUT_VIEWS, 9).descr)
    make_bank(folder, described)
    return described.layout()


def some_rows(layout: Layout, clips, view, value=1.0):
    count = len(clips)
    rows = {"clip": np.array(clips), "view": np.full(count, view), "status": np.zeros(count, np.int8)}
    rows |= {"present": np.ones((count, layout.teachers), bool), "parameters": np.zeros(count, layout.parameters)}
    return rows | {f"logits/{h}": np.full((count, layout.teachers, c), value, "<f2") for h, c in layout.heads.items()}


def test_several_writers_add_to_one_bank_and_the_newer_answer_counts(tmp_path):
    layout = small_bank(tmp_path)
    one, two = BankWriter(tmp_path, "job/1"), BankWriter(tmp_path, "job 2")
    one.add(some_rows(layout, range(10), 0))
    two.add(some_rows(layout, range(10, 20), 0))
    one.flush()
    early = Bank(tmp_path)
    two.flush()
    assert early.rows == 10
    early.refresh()
    assert early.rows == 20
    two.add(some_rows(layout, [5], 0, value=2.0))
    two.flush()
    bank = Bank(tmp_path)
    rows, sound = bank.read(np.array([5, 6]), np.array([0, 0]))
    assert bank.rows == 20 and sound.all() and rows["logits/verb"][:, 0, 0].tolist() == [2.0, 1.0]
    assert (one.kept, two.kept) == (10, 11)


def test_what_is_not_flushed_is_all_that_a_killed_writer_loses(tmp_path, monkeypatch):
    layout = small_bank(tmp_path)
    monkeypatch.setattr(store, "PART_BYTES", 12 * layout.row_bytes())
    writer = BankWriter(tmp_path, "killed")
    for clip in range(20):
        writer.add(some_rows(layout, [clip], 0))
    bank = Bank(tmp_path)
    assert bank.rows == 13 and not bank.damaged and bank.has(np.arange(13), np.zeros(13, int)).all()


def test_a_part_of_another_bank_or_of_rubbish_is_no_part(tmp_path):
    layout = small_bank(tmp_path / "one")
    small_bank(tmp_path / "two", clips=60)
    writer = BankWriter(tmp_path / "two", "x")
    writer.add(some_rows(layout, range(5), 0))
    writer.flush()
    (part,) = (tmp_path / "two" / "parts").iterdir()
    shutil.copy(part, tmp_path / "one" / "parts" / part.name)
    (tmp_path / "one" / "parts" / "rubbish.parquet").write_bytes(b"rubbish")
    bank = Bank(tmp_path / "one")
    assert bank.rows == 0 and bank.damaged[part.name] == "it belongs to another bank"
    assert "rubbish.parquet" in bank.damaged


def test_logits_that_fp16_cannot_hold_are_refused(tmp_path):
    layout = small_bank(tmp_path)
    with pytest.raises(ValueError, match=r"verb logits of clips number \[1, 2\] do not fit"):
        BankWriter(tmp_path, "x").add(some_rows(layout, [1, 2], 0, value=np.inf))


def test_damaged_bank_json_is_said(tmp_path):
    small_bank(tmp_path)
    (tmp_path / "bank.json").write_text('{"version": 1')
    with pytest.raises(SettingsError, match=r"bank\.json is damaged"):
        Bank(tmp_path)


def test_reading_is_the_same_however_many_rows_a_group_has_and_however_small_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd.bank.rows.GROUP_BYTES", 100)
    monkeypatch.setattr(store, "CACHE_BYTES", 5000)
    layout = small_bank(tmp_path, clips=1000)
    writer = BankWriter(tmp_path, "x")
    for view in range(3):
        rows = some_rows(layout, np.random.default_rng(view).permutation(1000), view)
        rows["logits/verb"][:] = (rows["clip"] + view)[:, None, None] / 8
        writer.add(rows)
    writer.flush()
    bank = Bank(tmp_path)
    clips, views = np.random.default_rng(9).integers(0, [[1000], [3]], (2, 300))
    rows, sound = bank.read(clips, views)
    assert sound.all() and np.array_equal(rows["logits/verb"][:, 1, 2], ((clips + views) / 8).astype(np.float16))
    assert bank._cached <= 5000 + 16 * layout.row_bytes()


def test_jobs_that_begin_a_bank_at_the_same_time_do_not_trip_over_each_other(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: write_json(tmp_path / "bank.json", {"number": number}), range(200)))
    assert json.loads((tmp_path / "bank.json").read_text())["number"] in range(200)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.json"]
