"""Array aliases and the shape legend used in every docstring.

n_documents   documents of the pool, after rejects
n_domains     training domains, matched by name, never by position
n_targets     validation domains or target sets whose loss is predicted
n_runs        proxy models trained
n_simulated   mixtures drawn while searching
n_criteria    quality criteria
n_clusters    clusters of documents
n_tokens      tokens, always of the pool's own tokenizer unless the name says otherwise

``weights`` are shares of tokens; rows sum to 1. Losses are nats per token unless the name ends in
``_bpb`` (bits per byte).
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
KeyArray: TypeAlias = npt.NDArray[np.uint64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
