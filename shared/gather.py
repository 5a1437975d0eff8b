"""Rows of images gathered from memory as fast as memory allows: the hot path of every training.

PyTorch's ``images[rows]`` moves uint8 element by element; here whole rows are copied.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Below this a second thread takes longer to start than it saves.
THREAD_BYTES = 16 * 2**20


def empty_images(num_rows: int, image_shape: tuple[int, ...]) -> Tensor:
    """Return an uninitialized uint8 tensor ``(num_rows, *image_shape)`` on the CPU.

    From NumPy, which asks the kernel for huge pages: where memory is new to the process, writing to
    it is then faster.
    """
    return torch.from_numpy(np.empty((num_rows, *image_shape), np.uint8))


def gather_rows(images: Tensor, rows: Tensor) -> Tensor:
    """Return ``images[rows]`` as a new tensor, on the device of the images.

    Args:
        images: uint8 ``(N, C, H, W)``, contiguous. On the CPU, large batches are copied by up to
            ``torch.get_num_threads()`` threads.
        rows: int64 ``(n,)`` in [0, N), on the same device; in any order, repeated or none.

    Raises:
        IndexError: If there are no such rows.
    """
    if images.device.type != "cpu":
        return images[rows]
    source, wanted = images.numpy(), rows.numpy().astype(np.int64, casting="safe", copy=False)
    # Negative numbers are huge ones without a sign: one pass finds both. Each costs a few percent.
    if len(wanted) and wanted.view(np.uint64).max() >= len(source):
        raise IndexError(f"rows outside 0 to {len(source) - 1}")
    gathered = empty_images(len(wanted), images.shape[1:])
    num_parts = min(torch.get_num_threads(), gathered.nbytes // THREAD_BYTES)
    if num_parts > 1:
        _take_in_parts(source, wanted, gathered.numpy(), num_parts)
    else:
        _take(source, wanted, gathered.numpy())
    return gathered


def _take(source: NDArray[np.uint8], wanted: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    # The rows are known to exist; "clip" writes straight to ``out``, "raise" to a copy of it.
    np.take(source, wanted, axis=0, out=out, mode="clip")


def _take_in_parts(
    source: NDArray[np.uint8], wanted: NDArray[np.int64], out: NDArray[np.uint8], num_parts: int
) -> None:
    """Copy rows in several threads; NumPy lets go of the interpreter meanwhile.

    Threads are started for each batch. One kept for the next would be missing after a fork, and
    OpenMP's wait actively for a core that another process may have.
    """
    bounds = [len(wanted) * part // num_parts for part in range(num_parts + 1)]
    first, *others = (slice(*part) for part in pairwise(bounds))
    with ThreadPoolExecutor(len(others)) as threads:
        running = [threads.submit(_take, source, wanted[part], out[part]) for part in others]
        _take(source, wanted[first], out[first])
        for thread in running:
            thread.result()
