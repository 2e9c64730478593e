"""Blocks that travel on Ray, without Ray."""

from dataclasses import replace

import numpy as np
import pytest

from mmkd.config import Settings
from mmkd.pipeline import Work
from mmkd.plan import Plan
from mmkd.ray_data import as_row, of_row, steps_together, units_of
from mmkd.resources import STORE, Node


def test_units_come_out_of_a_row_as_they_went_in_and_nothing_is_copied():
    rng = np.random.default_rng(0)
    units = [{"step": np.full(4, step), "rgb": rng.integers(0, 255, (4, 2, 3), np.uint8)} for step in (7, 8, 9)]
    row = as_row(units)
    assert {len(values) for values in row.values()} == {1}
    found = list(units_of(of_row(row)))
    assert len(found) == 3
    for ours, theirs in zip(found, units, strict=True):
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        assert np.shares_memory(ours["rgb"], row["rgb"])


def test_a_unit_that_a_bank_answered_has_zeros_for_what_it_lacks():
    answered = {"step": np.array([3, 3]), "banked": np.ones(2, bool)}
    other = {
        "step": np.array([4, 4]),
        "banked": np.zeros(2, bool),
        "has/flow": np.ones(2, bool),
        "flow": np.ones((2, 5)),
    }
    for units in ([answered, other], [other, answered]):
        found = {int(unit["step"][0]): unit for unit in units_of(of_row(as_row(units)))}
        assert (found[4]["flow"] == 1).all() and found[4]["has/flow"].all()
        assert (found[3]["flow"] == 0).all() and not found[3]["has/flow"].any() and found[3]["banked"].all()


def work(clips=100_000, batch=64, **sections) -> Work:
    plan = Plan(np.arange(clips), np.arange(10), np.arange(0), epochs=1, batch_size=batch)
    return Work(Settings.model_validate(sections), "", plan, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("views", "num_workers", "together"),
    [
        ({"size": 64, "frames": 8}, 1, 2),  # of 98 KB, 170 clips are 16 MB
        ({"size": 64, "frames": 8}, 8, 16),  # as each of 8 workers has several blocks in an object store of 1 GB
        ({"size": 224, "frames": 8}, 1, 1),  # of 1.2 MB, 13 are, but 32 are not above 64 MB
        ({"size": 112, "frames": 8}, 16, 5),
    ],
)
def test_a_block_has_many_clips_and_not_too_many_bytes(views, num_workers, together):
    found = steps_together(work(views=views), num_workers, ())
    assert found == together
    mb = found * -(-64 // num_workers) * views["frames"] * views["size"] ** 2 * 3 / 2**20
    assert found == 1 or mb <= min(64, 100 / num_workers)


def test_an_epoch_has_blocks_enough_for_all_stages():
    few = work(clips=2000, batch=32)
    assert steps_together(few, 1, ()) == 5 and steps_together(work(clips=320, batch=32), 1, ()) == 1
    asked = replace(few, settings=Settings(resources={"steps_per_block": 9}))
    assert steps_together(asked, 1, ()) == 9


@pytest.mark.parametrize(
    ("actors", "size", "store", "clips"),
    [
        (2, 224, 100e9, 32),
        (16, 224, 100e9, 256),  # 8 times the actors, 8 times the clips: as many blocks a second
        (2, 64, 100e9, 160),
        (16, 64, 100e9, 1344),
        (64, 224, 16e9, 160),  # of 1.2 MB: a node's object store has ten blocks of each of its eight actors
        (1000, 224, 2e12, 864),  # no block has more than 1 GB
    ],
)
def test_many_actors_have_larger_blocks(actors, size, store, clips):
    settings = {"views": {"size": size, "frames": 8}, "teachers": {"actors": actors, "num_gpus": 1}}
    found = replace(work(clips=10**7, **settings), teachers=("a",))
    nodes = [Node({"CPU": 0.0, STORE: 1e9}), *[Node({"CPU": 64.0, STORE: store})] * 8]
    assert steps_together(found, 2, nodes) * 32 == clips
    few = steps_together(replace(found, teachers=()), 2, nodes)
    assert few == (1 if size == 224 else 5), "without teachers there are the two readers alone"


def test_every_process_of_a_stage_has_blocks_in_an_epoch():
    found = replace(work(clips=64 * 1000, teachers={"actors": 64, "num_gpus": 1}), teachers=("a",))
    blocks = 1000 / steps_together(found, 2, [Node({"CPU": 64.0, STORE: 100e9})] * 8)
    assert 2 * blocks >= 2 * 64
