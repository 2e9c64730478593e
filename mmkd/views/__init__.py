"""Views: which frames and which part of them a network sees, the same in every modality."""

from mmkd.views.boxes import repair_box, view_boxes
from mmkd.views.mixing import mix_boxes, mix_frames, mix_sound
from mmkd.views.pixels import view_flow, view_frames, view_rgb
from mmkd.views.sampling import strided_indices, uniform_indices
from mmkd.views.sound import view_audio
from mmkd.views.view import Grids, Mix, View, crop_square, grid_slots, make_view, parse_grid, test_views

__all__ = [
    "Grids",
    "Mix",
    "View",
    "crop_square",
    "grid_slots",
    "make_view",
    "mix_boxes",
    "mix_frames",
    "mix_sound",
    "parse_grid",
    "repair_box",
    "strided_indices",
    "test_views",
    "uniform_indices",
    "view_audio",
    "view_boxes",
    "view_flow",
    "view_frames",
    "view_rgb",
]
