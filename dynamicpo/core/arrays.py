"""Types of NumPy arrays, one name for each, shared by all rooms."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
# Scores and log-probabilities, as models compute them.
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
# Keys of random draws, see `random_keys`.
KeyArray = NDArray[np.uint64]
