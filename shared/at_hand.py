"""A network that somebody holds in Python, as a teacher: no file, no factory, nothing to import."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from shared.answers import plain_answers
from shared.architectures import held, is_factory, resize
from shared.architectures.transformers_models import logits_of
from shared.checkpoint import Checkpoint, checkpoint_of
from shared.errors import CheckpointError, ConfigError, DreamforgeError
from shared.model_folder import facts_in
from shared.seeding import generator
from shared.spec import TeacherSpec
from shared.teacher import Teacher, teacher_from_checkpoint
from shared.tensors import tensors_in

# Of what logits differ by from image to image, whatever they have in common: other kernels round
# otherwise.
_SAME = 1e-3
_NUM_COMPARED = 4  # images


@contextmanager
def teacher_at_hand(
    network: nn.Module, *, spec: TeacherSpec | None = None, **facts: Any
) -> Iterator[Teacher]:
    """Yield ``network`` as a teacher, on the CPU in float32; the network itself is left alone.

    Where a known architecture with these weights gives the same answers, the teacher has its name,
    and what is made from it needs no code of anybody. Otherwise the name is that of the network's
    class, ``package.module:Class``, and within the block it stands for this network.

    Args:
        network: Takes normalised ``(N, C, H, W)``, answers with logits, or with something that has
            ``logits``, as the models of transformers do. What wraps it (``DataParallel``,
            ``torch.compile``) is taken off.
        spec: What a dream set recorded of its teacher.
        **facts: Arguments of :func:`shared.teacher.teacher_from_checkpoint`, but for the
            architecture.

    Raises:
        CheckpointError: As :func:`shared.teacher.teacher_from_checkpoint`.
        ConfigError: If a fact is wrong, or the network cannot be copied.
    """
    own = plain_copy(network)
    own.register_forward_hook(logits_of)
    record = _library_record(network)
    checkpoint = checkpoint_of(own, facts_in(record, {})[0], class_name(network))
    found = _recognised(own, network, checkpoint, spec, facts)
    if found is not None:
        _require_own_tensors(own, network, found.spec)
        yield found
        return
    recorded = spec.architecture if spec is not None else ""
    name = recorded if is_factory(recorded) else class_name(network)
    known = {key: value for key, value in checkpoint.metadata.items() if key != "architecture"}
    checkpoint = replace(checkpoint, metadata=known)
    with held(name, own):
        teacher = teacher_from_checkpoint(checkpoint, architecture=name, spec=spec, **facts)
        _require_own_tensors(own, network, teacher.spec)
        yield teacher


def class_name(network: nn.Module) -> str:
    """Return ``package.module:Class`` of the network that is left without its wrappers."""
    kind = type(_unwrapped(network))
    return f"{kind.__module__}:{kind.__qualname__}"


def plain_copy(network: nn.Module) -> nn.Module:
    """Return a copy without wrappers: on the CPU, in float32 and in evaluation mode.

    Raises:
        ConfigError: If it cannot be copied.
    """
    plain = _unwrapped(network)
    if isinstance(plain, torch.jit.ScriptModule):
        raise ConfigError(
            f"{class_name(network)}: found TorchScript, expected an nn.Module of Python; pass the "
            "network that was scripted"
        )
    if any(is_lazy(each) for each in (*plain.parameters(), *plain.buffers())):
        raise ConfigError(
            f"{class_name(network)}: found layers without weights yet (nn.Lazy...), expected a "
            "trained network; load its weights, or give it one batch first"
        )
    try:
        return copy.deepcopy(plain, _detached(plain)).cpu().float().eval()
    except Exception as error:  # whatever hangs on somebody's module
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{class_name(network)}: cannot be copied ({type(error).__name__}: {reason}); pass the "
            "network alone, without what trains it"
        ) from error


def _detached(network: nn.Module) -> dict[int, Any]:
    """Return copies, by id, of the tensors that remember what they were computed from.

    ``copy.deepcopy`` refuses those, and takes these. The hooks of torch.nn.utils.prune and of the
    old weight_norm and spectral_norm leave one in a layer's attribute after each forward.
    """
    copies: dict[int, Any] = {}
    for layer in network.modules():
        for tensor in tensors_in(vars(layer)):
            # A view of a parameter follows it, and a copy of the view would not.
            if not tensor.is_leaf and not tensor._is_view():
                copies[id(tensor)] = copy.deepcopy(tensor.detach(), copies)
    return copies


def _unwrapped(network: nn.Module) -> nn.Module:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(network, wrappers):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):  # torch.compile
            network = inner
        else:
            return network


def _library_record(network: nn.Module) -> Mapping[str, Any]:
    """Return what a model of transformers or timm says of itself, as in its ``config.json``."""
    network = _unwrapped(network)
    config: Any = getattr(network, "config", None)
    if hasattr(config, "model_type") and hasattr(config, "to_dict"):
        # By way of JSON, as in the file: names of classes are then under strings.
        record = json.loads(json.dumps(config.to_dict(), default=str))
        return record if isinstance(record, dict) else {}
    usual = getattr(network, "pretrained_cfg", None)
    if isinstance(usual, dict) and isinstance(usual.get("architecture"), str):
        return {"architecture": usual["architecture"], "pretrained_cfg": usual}
    return {}


def _recognised(
    own: nn.Module,
    network: nn.Module,
    checkpoint: Checkpoint,
    spec: TeacherSpec | None,
    facts: Mapping[str, Any],
) -> Teacher | None:
    """Return the teacher that a known architecture makes of the weights, if it answers alike.

    None, too, where what is made from it would not come back as a copy of ``network``.
    """
    try:
        found = teacher_from_checkpoint(checkpoint, spec=spec, suggests=False, **facts)
    except DreamforgeError:  # no known one, or not this one: what is wrong is said later
        return None
    known = copy.deepcopy(found.network)
    plain_answers(known)
    draws = generator(0, "compare")
    images = torch.randn(_NUM_COMPARED, *found.spec.image_shape, generator=draws)
    try:
        back = student_of(network, known.state_dict())
    except CheckpointError:
        return None
    back.register_forward_hook(logits_of)
    return found if all(_answer_alike(own, each, images) for each in (known, back)) else None


def _answer_alike(network: nn.Module, other: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            # Some change what they get.
            expected, answer = network(images.clone()), other(images.clone())
    except Exception:  # noqa: BLE001  whatever somebody's forward may raise
        return False
    if not isinstance(expected, Tensor) or expected.shape != answer.shape:
        return False
    spread = float((expected - expected.mean(0)).abs().max())
    return float((expected - answer).abs().max()) <= _SAME * spread


class _Uses(TorchFunctionMode):
    """Whether anything is computed with one of the ``tensors``."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._wanted = {id(tensor) for tensor in tensors}
        self.found = False

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = tensors_in((args, kwargs))  # cat, stack and einsum take lists
        self.found |= any(id(each) in self._wanted for each in given)
        return function(*args, **(kwargs or {}))


def _require_own_tensors(own: nn.Module, network: nn.Module, spec: TeacherSpec) -> None:
    """Raise ConfigError if the copy ``own`` computes with tensors of the original ``network``.

    A function in an attribute is copied as it is, with whatever layers it closes over.
    """
    original = _unwrapped(network)
    uses = _Uses((*original.parameters(), *original.buffers()))
    with torch.no_grad(), uses:
        own(torch.zeros(_NUM_COMPARED, *spec.image_shape))
    if uses.found:
        raise ConfigError(
            f"{class_name(network)}: a copy of it computes with the original's layers, as a lambda "
            "or a function in an attribute does that closes over them; make it a method"
        )


def student_of(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``network`` with a student's tensors, in evaluation mode on the CPU.

    Auxiliary heads, which answer in training mode alone and were never part of the student, are
    left out: those of torchvision's GoogLeNet and Inception.

    Args:
        network: Whose copy the student was.
        tensors: By the names of its state dict; channels may be missing.

    Raises:
        CheckpointError: If they are of another network.
    """
    student = plain_copy(network)
    _leave_out_heads(student, tensors)
    try:
        resize(student, tensors)
        # In place of its own, which say of which version of its code they are: some refuse others.
        state = student.state_dict()
        state.update(tensors)
        student.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{class_name(network)}: the student has other tensors ({reason})"
        ) from error
    return student


def _leave_out_heads(student: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Remove the parts right under ``student`` that have tensors, but none of these."""
    used = {name.partition(".")[0] for name in tensors}
    for name, part in list(student.named_children()):
        if name not in used and part.state_dict():
            student._modules[name] = None  # as torchvision does it
            if getattr(student, "aux_logits", False):
                student.aux_logits = False  # type: ignore[assignment]
