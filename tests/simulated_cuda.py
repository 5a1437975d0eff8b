"""A CUDA device for machines that have none: values in main memory, CUDA's rules about devices.

``simulated_cuda()`` makes ``cuda:0`` usable: a tensor that is created there or moved there keeps
its values in main memory, says that it is on ``cuda:0``, and computes with the CPU's kernels, so
results equal the CPU's bit for bit. What a real device refuses is refused: operands on two devices
(but for what PyTorch allows: scalars in pointwise operations, indices on the CPU, copies), and
``numpy()``. Operations are counted, and of them those for which the host would wait.

It says nothing about CUDA's kernels, its memory, or its speed.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)

from shared.tensors import tensors_in

CUDA = torch.device("cuda:0")
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXED = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
    torch.ops.aten._unsafe_index.Tensor,
}
# The shape or the value of what they return is known only once the device has computed it.
_WAITED_FOR = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_consecutive.default,
}


class SimulatedTensor(torch.Tensor):
    """What PyTorch takes for a CUDA tensor: a shape without values, and the values beside it."""

    values: torch.Tensor
    depth = 0  # of operations on simulated tensors that run now
    # C++ is told "meta", whose gradients are computed without a driver.
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "SimulatedTensor":
        with _disable_current_modes():
            shape = torch.empty_strided(
                values.shape, values.stride(), dtype=values.dtype, device="meta"
            )
        made = torch.Tensor._make_subclass(cls, shape, False, device_for_backend_keys=CUDA)
        made.values = values
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what it holds; a real one would also say where it was."""
        return self.values.__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first."
            )
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.Tensor.to and isinstance(args[0], cls):
                return _to(*args, **kwargs)
            if func is torch.Tensor.tolist:
                return args[0].cpu().tolist()
            cls.depth += 1
            try:
                return func(*args, **kwargs)
            finally:
                cls.depth -= 1

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {}, None)


class Simulation(TorchDispatchMode):
    """What the device was asked.

    Attributes:
        operations: How often each was computed there, such as ``aten.add.Tensor``.
        waits: How often the host had to wait for its result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {}, self)


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``Tensor.to`` of a simulated tensor: the same object where it is there already."""
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    more = {} if memory_format is None else {"memory_format": memory_format}
    if device is None or device.type == "cuda":
        return tensor.to(dtype or tensor.dtype, non_blocking, copy, **more)
    return tensor.to(device, dtype or tensor.dtype, non_blocking, copy, **more)


def _compute(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], simulation: Simulation | None
) -> Any:
    leaves = list(tensors_in((args, kwargs)))
    simulated = any(isinstance(leaf, SimulatedTensor) for leaf in leaves)
    wanted = kwargs.get("device")
    device = torch.device(wanted) if wanted is not None else None
    inside = SimulatedTensor.depth > 0 or torch._C._current_graph_task_id() >= 0
    if device is not None and device.type == "meta" and (simulated or inside):
        device = CUDA  # C++'s name for the device of an operand
    if simulated:
        _refuse_two_devices(func, args, leaves)
        if simulation is not None:
            simulation.operations[str(func)] += 1
            simulation.waits[str(func)] += _waits(func, args, device)
    if device is not None and device.type == "cuda":
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*_mapped(_values, args), **_mapped(_values, kwargs))
    on_cuda = simulated if device is None else device.type == "cuda"
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if not on_cuda:
        return out
    out = _mapped(lambda x: SimulatedTensor(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if simulated else out


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, SimulatedTensor) else leaf


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Operands or results, changed one by one; PyTorch's own way takes half of the tests' time."""
    if type(value) in (tuple, list):
        return type(value)([_mapped(change, item) for item in value])
    if type(value) is dict:
        return {name: _mapped(change, item) for name, item in value.items()}
    return change(value)


def _refuse_two_devices(func: Any, args: tuple[Any, ...], leaves: list[torch.Tensor]) -> None:
    if func in _COPIES:
        return
    if func in _INDEXED:
        indices = list(tensors_in(args[1]))
        leaves = [leaf for leaf in leaves if not any(leaf is index for index in indices)]
    foreign = [leaf for leaf in leaves if not isinstance(leaf, SimulatedTensor)]
    if torch.Tag.pointwise in func.tags and not (
        func._schema.is_mutable and foreign and foreign[0] is args[0]
    ):
        foreign = [leaf for leaf in foreign if leaf.dim()]
    if foreign:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and {foreign[0].device}! ({func})"
        )


def _waits(func: Any, args: tuple[Any, ...], device: torch.device | None) -> bool:
    if func is torch.ops.aten.copy_.default:
        return isinstance(args[1], SimulatedTensor) and not isinstance(args[0], SimulatedTensor)
    if func in _INDEXED:
        return any(index.dtype == torch.bool for index in tensors_in(args[1]))
    return func in _WAITED_FOR or (device is not None and device.type == "cpu")


@contextmanager
def simulated_cuda(num_bytes: int = 8 * 2**30) -> Iterator[Simulation]:
    """Let ``cuda:0`` exist in this thread.

    Args:
        num_bytes: Memory that the device says it has free.
    """
    properties = SimpleNamespace(major=7, minor=5, name="simulated", total_memory=num_bytes)
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (
            7,
            5,
        ),  # so that "auto" is float32: autocast asks C++ for the device
        "get_device_name": "simulated",
        "get_device_properties": properties,
        "mem_get_info": (num_bytes, num_bytes),
        "max_memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "set_device": None,
        "synchronize": None,
        "empty_cache": None,
    }
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *a, _=answer, **k: _))
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", lambda self: self))
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        yield stack.enter_context(Simulation())
