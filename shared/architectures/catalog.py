"""The architectures known by name, and building one of them."""

import copy
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from shared.architectures import (
    cifar_densenet,
    cifar_mobilenets,
    dla,
    gentle_stem,
    he_resnet,
    mobilenet,
    preact_resnet,
    resnext,
    stem_resnet,
    torchvision_models,
    torchvision_plain,
    transformers_models,
    vgg,
    wide_resnet,
)
from shared.architectures.candidate import Candidate, Preprocessing, cifar_preprocessing
from shared.architectures.held import held_network
from shared.architectures.skeleton import (
    build_for_names,
    first_convolution,
    set_input_channels,
)
from shared.errors import ConfigError

# In the order in which identification prefers them when tensors cannot tell them apart.
ARCHITECTURES: dict[str, Candidate] = {
    candidate.name: candidate
    for family in (
        *(torchvision_models, he_resnet, stem_resnet, vgg, mobilenet, wide_resnet),
        *(gentle_stem, preact_resnet, cifar_mobilenets, cifar_densenet),
        *(resnext, dla, torchvision_plain),
    )
    for candidate in family.CANDIDATES
}
LIBRARIES = ("timm:", transformers_models.PREFIX)  # what builds these is not the file's code
_TIMM_NAME = re.compile(r"timm:([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)?)")
_FACTORY_NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_CONTRACT = "factories are called with num_classes=..., or with nothing where they do not take it"


def is_factory(architecture: str) -> bool:
    """Tell whether the name is ``package.module:factory``: building it runs somebody's code."""
    return not architecture.startswith(LIBRARIES) and ":" in architecture


def find_candidate(architecture: str) -> Candidate:
    """Return the candidate of a name that :class:`shared.spec.TeacherSpec` may have.

    The factory's module is imported, so such a name must come from the user and never from a
    file; the working folder is searched too. Networks at hand come first
    (:mod:`shared.architectures.held`).

    Raises:
        ConfigError: If there is no such architecture; the message has the nearest names.
    """
    network = held_network(architecture)
    if network is not None:
        build = partial(_copy_of, network)
        return _own_candidate(architecture, build)
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    if architecture.startswith("timm:"):
        return _timm_candidate(architecture)
    if architecture.startswith(transformers_models.PREFIX):
        return transformers_models.find_model(architecture)
    if is_factory(architecture):
        return _factory_candidate(architecture)
    near = difflib.get_close_matches(architecture, ARCHITECTURES, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(near)}?" if near else "names are as in torchvision"
    raise ConfigError(
        f"architecture {architecture!r} is not known; {suggestion} "
        "(timm:NAME and package.module:factory work too)"
    )


def build_network(architecture: str, *, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Return a network of the given architecture, randomly initialised, in training mode.

    Raises:
        ConfigError: If there is no such architecture.
    """
    network = find_candidate(architecture).build(num_classes)
    set_input_channels(network, in_channels)
    return network


def timm_names() -> list[str]:
    """Return the names of timm's models; empty where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return []
    return list(importlib.import_module("timm").list_models())


def _copy_of(network: nn.Module, _num_classes: int) -> nn.Module:
    return copy.deepcopy(network)


def _timm_candidate(architecture: str) -> Candidate:
    match = _TIMM_NAME.fullmatch(architecture)  # nothing else: "hf-hub:..." would download
    if match is None:
        raise ConfigError(f"architecture {architecture!r}: expected timm:NAME, as timm lists them")
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(f"architecture {architecture!r} needs timm: pip install timm")
    timm = importlib.import_module("timm")
    if not timm.is_model(match[1]):
        near = difflib.get_close_matches(match[1], timm.list_models(), n=3)
        raise ConfigError(f"timm has no model {match[1]!r}; similar names: {', '.join(near)}")
    build = partial(_build_timm, timm, match[1])
    return Candidate(name=architecture, build=build, usual=partial(_usual_timm, timm, match[1]))


def _build_timm(timm: Any, name: str, num_classes: int) -> nn.Module:
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return network


def _usual_timm(timm: Any, name: str) -> Preprocessing:
    config = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size
    return Preprocessing(size=(height, width), mean=tuple(config.mean), std=tuple(config.std))


def _factory_candidate(architecture: str) -> Candidate:
    match = _FACTORY_NAME.fullmatch(architecture)
    if match is None:
        raise ConfigError(f"architecture {architecture!r}: expected package.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not search the working folder
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(match[1]), match[2])
    except (Exception, SystemExit) as error:  # importing runs whatever the module says
        raise ConfigError(
            f"architecture {architecture!r} cannot be imported: {_described(error)}"
        ) from error
    if not callable(factory):
        raise ConfigError(
            f"architecture {architecture!r} is of type {type(factory).__name__}, expected a class "
            f"or a function: {_CONTRACT}"
        )
    return _own_candidate(architecture, partial(_call_factory, architecture, factory))


def _own_candidate(architecture: str, build: Callable[[int], nn.Module]) -> Candidate:
    """Return the candidate of somebody's own network, which is built once to guess from it."""
    return Candidate(name=architecture, build=build, usual=cache(partial(_guessed_usual, build)))


def _guessed_usual(build: Callable[[int], nn.Module]) -> Preprocessing:
    """Guess from the first convolution: networks for small images do not begin with a stride."""
    try:
        stem = first_convolution(build_for_names(lambda: build(2)))
    except ConfigError:  # it takes its own numbers of classes only
        return cifar_preprocessing()
    strided = stem is not None and max(stem[1].stride) > 1
    return Preprocessing(size=(224, 224)) if strided else cifar_preprocessing()


def _call_factory(name: str, factory: Callable[..., Any], num_classes: int) -> nn.Module:
    """Call with ``num_classes`` where the factory takes it, else with nothing.

    Raises:
        ConfigError: Whatever it raises, if it wants other arguments, or returns no network.
    """
    arguments = _arguments(name, factory, num_classes)
    try:
        network = factory(**arguments)
    except (Exception, SystemExit) as error:
        given = "".join(f"{key}={value}" for key, value in arguments.items())
        raise ConfigError(
            f"architecture {name!r}: called with ({given}), it raised {_described(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        found = type(network).__name__
        raise ConfigError(f"architecture {name!r} returned a {found}, expected an nn.Module")
    return network


def _arguments(name: str, factory: Callable[..., Any], num_classes: int) -> dict[str, int]:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of code that is not Python
        return {}
    parameters = signature.parameters.values()
    takes_it = any(p.name == "num_classes" or p.kind is p.VAR_KEYWORD for p in parameters)
    arguments = {"num_classes": num_classes} if takes_it else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"architecture {name!r}: {error}; write a function that gives it, for {_CONTRACT}"
        ) from error
    return arguments


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
