"""The columns of side information that a filter asks for, from what a plug knows of the matches."""

from __future__ import annotations

import numpy as np


def side_columns(
    names: tuple[str, ...], ratio: np.ndarray, mutual: np.ndarray
) -> np.ndarray | None:
    """(N, S) columns in the order of `names`; None where the filter asks for none.

    Args:
        names: a filter's `side_information`.
        ratio: (N,) nearest / second nearest descriptor distance, 1 where it says nothing.
        mutual: (N,) bool, nearest in both directions.

    Raises:
        ValueError: a name other than "ratio" and "mutual".
    """
    known = {"ratio": ratio, "mutual": mutual}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"filter: wants side information {unknown}, known here are {[*known]}")
    if not names:
        return None
    return np.stack([np.asarray(known[name], dtype=np.float64) for name in names], axis=1)
