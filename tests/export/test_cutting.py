"""Where files end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cuvee.export.cutting import stretches


def _cuts(chunks: list[list[int]], limit: int) -> list[int]:
    """Return how many documents each file gets."""
    files, filled = [0], 0
    for sizes in chunks:
        for start, stop, is_full in stretches(np.array(sizes), filled=filled, limit=limit):
            files[-1] += stop - start
            filled += sum(sizes[start:stop])
            if is_full:
                files.append(0)
                filled = 0
    return files if files[-1] else files[:-1]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 120),
    st.lists(st.integers(1, 39), max_size=5),
)
def test_cuts_do_not_depend_on_chunks(sizes: list[int], limit: int, at: list[int]) -> None:
    """Files end behind the document that fills them, however documents arrive."""
    expected, filled = [0], 0
    for size in sizes:
        expected[-1] += 1
        filled += size
        if filled >= limit:
            expected.append(0)
            filled = 0
    expected = expected if expected[-1] else expected[:-1]
    places = sorted({place for place in at if place < len(sizes)})
    chunks = [part.tolist() for part in np.split(np.array(sizes), places)]
    assert _cuts(chunks, limit) == _cuts([sizes], limit) == expected
