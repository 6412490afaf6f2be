"""Runs an encoder without padding: all real tokens of a batch in one row, each text attending only to itself.

An encoder spends most of its time in layers that process one token at a time. Padding costs them as much as
text does; here they never get any. Only attention needs to know where texts begin and end: it runs on groups
of texts of similar length, or in a kernel for texts of any length.
"""

from ray_st.models.unpadded.packed_models import POSITIONS, is_prepared, prepare, run_packed
from ray_st.models.unpadded.packed_rows import Packing, find_packing, is_full, rounded
from ray_st.models.unpadded.packed_within import carrying, prepare_within

__all__ = [
    "POSITIONS",
    "Packing",
    "carrying",
    "find_packing",
    "is_full",
    "is_prepared",
    "prepare",
    "prepare_within",
    "rounded",
    "run_packed",
]
