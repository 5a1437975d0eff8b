"""Where each fact about a teacher comes from: argument, checkpoint, dream set, or assumption.

Records in files are somebody else's: what makes no sense there is passed over, with a note, and
a name that would run code when built is refused unless the user gives it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.answers import LastStep
from shared.architectures import Candidate, is_factory
from shared.errors import CheckpointError, ConfigError
from shared.input_scale import Convention
from shared.records import LOOSE_KEYS, READERS, read_numbers
from shared.spec import NONE, SIGMOID, SOFTMAX, TeacherSpec, class_names_of, misfit_of, other_names

_MOST = 2.0  # a mean or std for pixels in [0, 1]; those of images are below 1


class Facts:
    """The sources of facts in order of precedence; ``notes`` collects what had to be assumed.

    Args:
        arguments: By fact: ``architecture``, ``image_size`` as ``(H, W)``, ``mean``, ``std``,
            ``class_names``, ``answers``; None where not given.
        metadata: What stood in the checkpoint.
        spec: What a dream set recorded.
    """

    def __init__(
        self, arguments: Mapping[str, Any], metadata: Mapping[str, Any], spec: TeacherSpec | None
    ) -> None:
        self.notes: list[str] = []
        self._is_of_set = False
        self._metadata = metadata
        self._arguments = {name: value for name, value in arguments.items() if value is not None}
        self._recorded = self._without_bytes(self._read(metadata))
        self._set = {} if spec is None else self._read(spec.to_json())

    def trust_set(self, spec: TeacherSpec) -> None:
        """From now on let the set, made of these weights, come before what is usual for them."""
        known = {"answers": spec.answers} if "answers" in self._recorded else {}
        self._recorded |= known | self._set  # of a softmax a set says nothing
        self._is_of_set = True

    def find(self, name: str) -> Any:
        """Return the fact from its first source that has it, or None."""
        recorded = self._recorded.get(name, self._set.get(name))
        if name not in self._arguments:
            return recorded
        given = self._arguments[name]
        if recorded is not None and not _are_same(given, recorded):
            self._note(
                f"{name.replace('_', ' ')}: took {_short(given)} as given, though "
                f"{_short(recorded)} is recorded"
            )
        return given

    def is_only_in_set(self, name: str) -> bool:
        """Tell whether it is the dream set that says the fact: neither user nor checkpoint."""
        is_recorded = name in self._recorded and not self._is_of_set
        return name in self._set and name not in self._arguments and not is_recorded

    def architecture(self) -> str | None:
        """Return the architecture's name where a source has it.

        Raises:
            CheckpointError: If only a file says it, and building it would run somebody's code.
        """
        name: str | None = self.find("architecture")
        if name is not None and is_factory(name) and "architecture" not in self._arguments:
            raise CheckpointError(
                f"architecture recorded as {name[:80]!r}, which is code to import; where you "
                f"trust it, pass --arch {name[:80]}"
            )
        return name

    def hint(self, path: Path | None) -> str:
        """Return text that may hold the architecture's name: what scripts record, the file name."""
        words = [self._metadata.get(key) for key in ("architecture", "arch", "model_name")]
        return " ".join(
            [*(word for word in words if isinstance(word, str)), path.stem if path else ""]
        )

    def image_size(
        self,
        candidate: Candidate,
        sides_instead: Callable[[tuple[int, int]], Sequence[int]] = lambda size: (),
    ) -> tuple[int, int]:
        """Return ``(H, W)``, where nothing says it the architecture's usual one.

        Args:
            candidate: The architecture.
            sides_instead: Returns the sides of square images, likeliest first, that the network
                takes where it refuses images of a size; none where it takes them.
        """
        found = self.find("image_size")
        if found is None:
            height, width = candidate.usual().size
            why = _why(candidate, "one")
            if sides := sides_instead((height, width)):
                others = "".join(f", {side}x{side}" for side in sides[1:4])
                also = f" (likewise {others[2:]})" if others else ""
                why = f"since {candidate.name} takes it{also} and not {height}x{width}"
                height = width = sides[0]
            self._note(f"image size {height}x{width}, {why}; --image-size says otherwise")
            return height, width
        if len(found) != 2 or min(found) < 1:
            raise ConfigError(f"--image-size: found {found}, expected positive pixels")
        return int(found[0]), int(found[1])

    def normalization(
        self,
        candidate: Candidate,
        channels: int,
        better_than: Callable[
            [Sequence[float], Sequence[float]], Convention | None
        ] = lambda mean, std: None,
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std per channel.

        Where nothing says them, those that the network's BatchNorm remembers, if it plainly
        contradicts the usual ones; else the usual ones.

        Args:
            candidate: The architecture.
            channels: Of the images.
            better_than: Returns what explains the network's statistics where a mean and std
                (per channel) plainly do not; None otherwise.
        """
        found = {name: self._of_channels(name, channels) for name in ("mean", "std")}
        for name in ("mean", "std"):
            given = self._arguments.get(name)
            if given is not None and _are_of_bytes(given):
                raise ConfigError(
                    f"--{name}: found {_short(given)}, expected that of pixels in [0, 1]; divide "
                    f"by 255: --{name} {_divided(given)}"
                )
        missing = [name for name, values in found.items() if values is None]
        usual = candidate.usual() if missing else None
        for name in missing:
            values = getattr(usual, name)
            found[name] = values if channels == len(values) else (0.5,)
        mean = _per_channel("--mean", found["mean"], channels)
        std = _per_channel("--std", found["std"], channels)
        better = better_than(mean, std)
        if better is not None and len(missing) == 2:
            mean, std = (better.mean,) * channels, (better.std,) * channels
            self._note(f"{_scaling(better)}; --mean and --std say otherwise")
        elif missing:
            why = _why(candidate, "ones") if channels == 3 else "for want of better"
            values = " and ".join(f"{name} {_short(found[name])}" for name in missing)
            self._note(f"{values}, {why}; --mean and --std say otherwise")
        if better is not None and len(missing) < 2 and not self.is_only_in_set("std"):
            self._note(
                f"mean {_short(mean)} and std {_short(std)}, though the weights speak for "
                f"{_scaling(better)}"
            )
        return mean, std

    def _of_channels(self, name: str, channels: int) -> Any:
        """Return the fact, but none that a file has for another number of channels."""
        values = self.find(name)
        if values is None or name in self._arguments or len(values) in (1, channels):
            return values
        self._note(f"recorded {name} ignored: found {len(values)} numbers for {channels} channels")
        return None

    def answers(self, num_logits: int, last_step: LastStep | None) -> str:
        """Return what the logits are for: a ``softmax``, or a ``sigmoid`` each.

        Args:
            num_logits: Of the network.
            last_step: That makes probabilities of them in the network itself, or None.

        Raises:
            ConfigError: If another one is given than the network can mean.
        """
        found: str | None = self.find("answers")
        if last_step is not None:
            certain, why = last_step.kind, f"{last_step.kind} is the last thing that it computes"
        elif num_logits == 1:
            certain, why = SIGMOID, "it answers with a single number"
        else:
            return found or SOFTMAX
        if last_step is not None and last_step.layer is None:
            self._note(
                f"logarithms of what it answers, since {why}, in a function: where that is sure it "
                "has no gradient; a factory whose forward returns the logits is better"
            )
        if found not in (None, certain):
            raise ConfigError(f"--answers {found}: expected {certain}, since {why}")
        if found is None:
            self._note(f"{_meaning(certain, num_logits)}, since {why}")
        return certain

    def class_names(self, num_classes: int, answers: str = SOFTMAX) -> tuple[str, ...] | None:
        """Return one name per class, or None where unknown; of sigmoids' findings with "none"."""
        recorded = self._recorded.get("class_names", self._set.get("class_names"))
        given = self._arguments.get("class_names", recorded)
        if given is None:
            return None
        about = (num_classes, answers)
        names = class_names_of([str(name) for name in given], *about)
        if names is None and "class_names" in self._arguments:
            raise ConfigError(f"class names: {misfit_of(given, *about)}")
        if names is None:
            self._note(f"recorded class names ignored: {misfit_of(given, *about)}")
        elif recorded is not None and (other := other_names(names, recorded, *about)):
            self._note(f"class names: {other}")
        return names

    def _read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts in a record, without those that make no sense."""
        facts = {}
        for key, (name, read) in READERS.items():
            if record.get(key) is None or name in facts:
                continue
            value = read(record[key])
            if value is not None:
                facts[name] = value
            elif key not in LOOSE_KEYS:
                self._note(f"recorded {key} ignored: found {_short(record[key])}")
        return facts

    def _without_bytes(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of a checkpoint without mean and std of pixels from 0 to 255, aloud.

        A dream set's are what its images were made with, whatever they are.
        """
        for name in ("mean", "std"):
            if name in facts and _are_of_bytes(facts[name]):
                numbers = facts.pop(name)
                self._note(
                    f"recorded {name} ignored: found {_short(numbers)}, which is of pixels from 0 "
                    f"to 255, expected that of pixels in [0, 1]: --{name} {_divided(numbers)}?"
                )
        return facts

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _meaning(answers: str, num_logits: int) -> str:
    if answers == SOFTMAX:
        return "a softmax over its classes"
    if num_logits == 1:
        return f'a sigmoid: class 1 where its answer is above 1/2, else class 0 ("{NONE}")'
    return f'a sigmoid for every answer by itself, class 0 where none is above 1/2 ("{NONE}")'


def _are_of_bytes(numbers: Sequence[float]) -> bool:
    """Tell whether a mean or std must be of pixels from 0 to 255.

    Inputs in any usual range are reached from pixels in [0, 1] with less than :data:`_MOST`.
    """
    return max(map(abs, numbers), default=0.0) > _MOST


def _divided(numbers: Sequence[float]) -> str:
    return ",".join(f"{number / 255:.4g}" for number in numbers[:8])


def _why(candidate: Candidate, what: str) -> str:
    """Say where an assumption comes from; of somebody's own network nothing is known."""
    if is_factory(candidate.name):
        return f"a guess, since nothing is known of {candidate.name}"
    return (what == "ones" and candidate.usual().doubt) or f"the usual {what} of {candidate.name}"


def _scaling(convention: Convention) -> str:
    return (
        f"mean {convention.mean:g} and std {convention.std:.4g}, since the first BatchNorm "
        f"remembers {convention.words}"
    )


def _per_channel(flag: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise ConfigError(
            f"{flag}: found {len(numbers)} numbers, expected {channels}, one per channel"
        )
    return numbers


def _are_same(given: Any, recorded: Any) -> bool:
    return (len(given) == 1 and set(given) == set(recorded)) or list(given) == list(recorded)


def _short(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return repr(value)[:60]
    if read_numbers(value):
        return ", ".join(f"{item:g}" for item in value[:8])
    return f"{len(value)} values"
