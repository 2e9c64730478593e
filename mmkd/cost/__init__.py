"""Cost: what it takes a network, and an ensemble with all that its inputs need, to answer for one view of a clip.

`count` counts without computing, `network` measures one network, `inputs` what comes before it, and `table` sets them
side by side.
"""

from mmkd.cost.count import example_input, flops_per_view

__all__ = ["example_input", "flops_per_view"]
