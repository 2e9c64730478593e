"""The logit bank: teachers' answers kept, so that later epochs, students and sweeps need not ask; docs/sweeps.md."""

from mmkd.extras import TRAIN, require_extra

require_extra("train", *TRAIN)
