from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from truepair.data.columns import blocks_of_rows, take_rows


@given(parts=st.lists(st.integers(0, 4), min_size=1, max_size=6), block=st.integers(1, 9), data=st.data())
def test_rows_of_a_column_in_parts_are_those_of_a_plain_list(parts, block, data):
    values = [None if number % 5 == 4 else f"value {number}" for number in range(sum(parts))]
    ends = np.cumsum([0, *parts]).tolist()
    column = pa.chunked_array([pa.array(values[start:end], pa.string()) for start, end in pairwise(ends)], pa.string())
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20)) if values else []

    taken = take_rows(column, np.array(rows, np.int64), block)

    assert taken.to_pylist() == [values[row] for row in rows]
    assert taken.type == column.type
    blocks = [part.to_pylist() for part in blocks_of_rows(column, np.array(rows, np.int64), block)]
    assert blocks == [[values[row] for row in rows[at : at + block]] for at in range(0, len(rows), block)]


def test_what_is_taken_in_order_is_not_joined():
    column = pa.chunked_array([["a", "b"], ["c", "d"]])

    assert take_rows(column, np.array([1, 2])).to_pylist() == ["b", "c"]
    assert take_rows(column, np.array([1, 2])).num_chunks == 2
    assert take_rows(column, np.array([2, 1])).num_chunks == 1
