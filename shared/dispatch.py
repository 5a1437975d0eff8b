"""PyTorch's dispatch mode, which sees every operation of a block, without its compiler."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A mode that no compiled code runs in, so that PyTorch need not import its compiler for it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
