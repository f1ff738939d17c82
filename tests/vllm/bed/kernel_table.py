"""What the numpy kernels are made of: a table by name, and memory at an address."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Kernel = Callable[..., None]
F = TypeVar("F", bound=Kernel)


class Kernels(dict[str, Kernel]):
    """Numpy functions by the name of the kernel: the function's own with `_kernel` behind it.

    A function takes `grid`, how often the kernel would have been launched in each dimension, and all of the kernel's
    arguments by their names, tensors as arrays over the same memory.
    """

    def __call__(self, function: F) -> F:
        self[f"{function.__name__}_kernel"] = function
        return function


def numbers_at(address: Any, n: Any) -> NDArray[np.int32]:
    """The n numbers of 32 bits at an address."""
    found: NDArray[np.int32] = np.ctypeslib.as_array((ctypes.c_int32 * int(n)).from_address(int(address)))
    return found
