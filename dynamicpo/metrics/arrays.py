"""Input of the metrics as NumPy arrays: from lists, arrays and tensors."""

from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray


@runtime_checkable
class TensorLike(Protocol):
    """The part of a torch tensor that is used here, so that torch itself need not be imported."""

    def detach(self) -> Self:
        """The values without their graph."""

    def cpu(self) -> Self:
        """The values in the host's memory."""

    def float(self) -> Self:
        """The values in float32."""

    def numpy(self) -> NDArray[Any]:
        """The values as an array that shares their memory."""


def as_array(values: ArrayLike | TensorLike) -> NDArray[Any]:
    """The values as an array, of their own dtype; of a tensor without its graph.

    NumPy has no bfloat16, so that such a tensor becomes float32, which holds the same values.
    """
    if not isinstance(values, TensorLike):
        return np.asarray(values)
    on_host = values.detach().cpu()
    # The dtype is asked for by name: `torch.bfloat16` would need torch.
    if str(getattr(on_host, "dtype", "")) == "torch.bfloat16":
        on_host = on_host.float()
    return on_host.numpy()
