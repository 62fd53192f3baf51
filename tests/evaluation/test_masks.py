"""Run lengths, boxes and overlaps of masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystep.evaluation.masks import decode_runs, encode_runs, high_overlaps, mask_box

masks = (
    st.integers(1, 6)
    .flatmap(lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=6))
    .map(lambda rows: np.array(rows, bool))
)


@given(masks)
def test_runs_come_back_as_the_mask_they_were(mask):
    np.testing.assert_array_equal(decode_runs(encode_runs(mask), *mask.shape), mask)


def test_runs_are_what_they_say():
    mask = np.array([[0, 1, 1], [1, 0, 0]], bool)
    assert encode_runs(mask).tolist() == [1, 3, 2]
    assert encode_runs(~mask).tolist() == [0, 1, 3, 2]
    assert encode_runs(np.zeros((2, 2), bool)).tolist() == [4]


def test_runs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="runs of 4 pixels do not make a mask of 2 x 3"):
        decode_runs([4], 2, 3)
    with pytest.raises(ValueError, match=r"must be \(H, W\) bool, got int64"):
        encode_runs(np.zeros((2, 2), np.int64))  # pyright: ignore[reportArgumentType]


def test_boxes_are_pixel_edges():
    mask = np.zeros((5, 7), bool)
    mask[1:3, 4] = True
    assert mask_box(mask) == (4.0, 1.0, 5.0, 3.0)
    with pytest.raises(ValueError, match="empty"):
        mask_box(np.zeros((2, 2), bool))


@given(st.lists(masks, max_size=4), st.floats(0.1, 1.0))
def test_overlaps_agree_with_counting(drawn, least):
    same = [np.resize(mask, (3, 3)) for mask in drawn]
    same = [mask for mask in same if mask.any()]
    expected = []
    for i in range(len(same)):
        for j in range(i + 1, len(same)):
            ratio = np.sum(same[i] & same[j]) / np.sum(same[i] | same[j])
            if ratio >= least:
                expected.append((i, j, ratio))
    assert high_overlaps(same, least) == expected
