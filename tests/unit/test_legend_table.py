"""Stored masks become classes by a table, in whatever order their numbers lie in memory."""

import numpy as np
import pytest

from visloom.data.legend import ILLEGAL, counted


@pytest.mark.parametrize("size", [(5, 7), (1, 9), (9, 1), (0, 4), (1, 1)])
@pytest.mark.parametrize("order", ["C", "F", "apart"])
def test_uint8_masks_in_any_order_of_memory(size, order):
    table = counted(tuple("abc"), (), first=1, ignore=(0,)).table()
    raw = np.random.default_rng(0).integers(0, 5, size).astype(np.uint8)
    apart = np.repeat(raw, 2, axis=1)[:, ::2]  # neither rows nor columns lie together
    stored = {"C": np.ascontiguousarray(raw), "F": np.asfortranarray(raw), "apart": apart}[order]
    found = table(stored, "a.png")
    wanted = np.array([-1, 0, 1, 2, ILLEGAL], np.int32)[raw]
    assert found.dtype == np.int32
    assert found.shape == size
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted)
