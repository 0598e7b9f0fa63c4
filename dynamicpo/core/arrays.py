"""Types of NumPy arrays, under one name each for all rooms."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
KeyArray = NDArray[np.uint64]  # keys of random draws, see `random_keys`
