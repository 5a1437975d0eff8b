"""What a recovery run found, as a record that programs read."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from recover.costs import Costs
from recover.masks import LayerCount
from recover.values import config_of, count, fraction, mapping, number, optional_number
from shared.errors import InputFileError

STAGES = ("teacher", "pruned", "repaired", "recovered")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """How good the network is at one stage. Fractions in [0, 1]; None where nothing was measured.

    Attributes:
        accuracy: On the real images; of findings the fraction of the known ones.
        agreement: Top-1 equal to the teacher's, on the real images where there are some, else on
            the held-out dreams.
        agreement_on_dreams: The same on the held-out dreams.
        sparsity: Fraction of the prunable weights that are zero.
        num_nonzero: How many prunable weights are not zero.
        agreement_on_varied: As agreement, on varied held-out dreams; this and the next three are
            those of :class:`recover.selection.Likeness`, None in reports of earlier versions.
        divergence: KL divergence from the teacher's answers to the same, in nats.
        score: Overlap with the teacher's answers to the same: what runs are ranked by.
        score_error: Standard error of the score.
        auroc: On the real images, where they are of two classes, or show findings: the area under
            the ROC curve, the mean over the findings.
    """

    accuracy: float | None
    agreement: float | None
    agreement_on_dreams: float | None
    sparsity: float
    num_nonzero: int
    agreement_on_varied: float | None = None
    divergence: float | None = None
    score: float | None = None
    score_error: float | None = None
    auroc: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord:
    """What became of one class: which images the student no longer sees as the teacher does.

    Measured on the real images where there are some, else on the held-out dreams.

    Attributes:
        label: Of the class.
        num_images: That the teacher puts into the class.
        agreement: Fraction of them that the student puts there, too; None without any.
        confused_with: Label that the student gives most of the others, None if there are none.
        num_confused: How many it gives that one.
        num_labelled: Images whose true class it is; None where the truth is not known.
        teacher_accuracy: Fraction of those that the teacher gets right.
        accuracy: Fraction of those that the student gets right.
    """

    label: int
    num_images: int
    agreement: float | None
    confused_with: int | None
    num_confused: int
    num_labelled: int | None = None
    teacher_accuracy: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """The result of one run of ``recover run``.

    Attributes:
        sparsity: As asked for.
        teacher: The dense network.
        pruned: Its copy, pruned in one shot at the full sparsity, or with its channels removed;
            with ``--student`` the other network likewise, before it was taught anything.
        repaired: The pruned copy, reconstructed and repaired as the config says.
        recovered: The distilled student that was saved.
        seconds: All sessions of the run together.
        out: The output folder.
        num_weights: Prunable weights of the network.
        num_kept: Weights that the masks keep.
        layers: Kept weights by layer.
        config: The resolved config.
        provenance: Teacher, dream set, versions, device, command and date.
        warnings: One sentence each.
        classes: The student beside the teacher, class by class; empty where nothing was measured.
        costs: Storage, multiply-adds and latency; None in reports of earlier versions.
    """

    sparsity: float
    teacher: StageRecord
    pruned: StageRecord
    repaired: StageRecord
    recovered: StageRecord
    seconds: float
    out: str
    num_weights: int
    num_kept: int
    layers: tuple[LayerCount, ...]
    config: dict[str, Any]
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    classes: tuple[ClassRecord, ...] = ()
    costs: Costs | None = None

    @property
    def stages(self) -> dict[str, StageRecord]:
        """The four stages by name, in order."""
        return {name: getattr(self, name) for name in STAGES}

    @property
    def student(self) -> str | None:
        """What the student is where it is no copy of the teacher with zeros in it.

        Another architecture, or what is left of the teacher's channels.
        """
        name, channels = self.config.get("student"), self.config.get("channels")
        if isinstance(name, str):
            return name
        return None if channels is None else f"{100 * float(channels):.4g} % of channels"

    @property
    def kind(self) -> tuple[str | None, bool, str | None]:
        """What two students share that differ in how much is pruned: levels compare within it.

        Another architecture, whether channels are removed, and the pattern of zeros.
        """
        name, pattern = self.config.get("student"), self.config.get("pattern")
        return name, self.config.get("channels") is not None, pattern

    @property
    def level(self) -> float:
        """How much is pruned, as asked for: the sparsity, or the fraction of channels that stay."""
        channels = self.config.get("channels")
        return self.sparsity if channels is None else float(channels)

    def fact(self, *path: str) -> Any:
        """Return what the provenance has at ``path``, None where it has nothing."""
        value: Any = self.provenance
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def starts_warm(self) -> bool:
        """Whether the run started from the student of another level of its sweep."""
        return self.config.get("warm_start") not in (None, 0.0, 1.0)  # those are the teacher

    @property
    def part_removed(self) -> float:
        """The fraction of weights that a student lacks: zeros, or those of channels that are gone.

        Of another architecture, its own zeros.
        """
        if self.config.get("channels") is None:
            return self.sparsity
        return 1 - min(self.num_kept / max(self.teacher.num_nonzero, 1), 1)

    @property
    def shown_stages(self) -> dict[str, StageRecord]:
        """The stages that say something about this run, under names that readers understand."""
        if not isinstance(self.config.get("student"), str):
            return self.stages
        return {"teacher": self.teacher, "untaught": self.pruned, "taught": self.recovered}

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Any, origin: str) -> "RecoveryReport":
        """Return the report of a parsed ``report.json``; unknown keys are ignored.

        Strings in it are as the file has them: whoever shows them escapes them.

        Args:
            record: As parsed.
            origin: Names the file in errors.

        Raises:
            InputFileError: If a key is missing or a value has the wrong type.
        """
        try:
            return cls(
                sparsity=number(fraction(record["sparsity"])),
                **{name: _stage(record[name]) for name in STAGES},
                seconds=number(record["seconds"]),
                out=str(record["out"]),
                num_weights=count(record["num_weights"]),
                num_kept=count(record["num_kept"]),
                layers=tuple(map(_layer, record["layers"])),
                config=config_of(record["config"]),
                provenance=dict(mapping(record["provenance"])),
                warnings=tuple(map(str, record["warnings"])),
                classes=tuple(_known(ClassRecord, entry) for entry in record.get("classes", ())),
                costs=_known(Costs, record["costs"]) if record.get("costs") else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputFileError(
                f"{origin}: no report of recover run ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:80]})"
            ) from error


def _stage(record: Any) -> StageRecord:
    return StageRecord(
        accuracy=fraction(record["accuracy"]),
        agreement=fraction(record["agreement"]),
        agreement_on_dreams=fraction(record["agreement_on_dreams"]),
        sparsity=number(record["sparsity"]),
        num_nonzero=count(record["num_nonzero"]),
        agreement_on_varied=fraction(record.get("agreement_on_varied")),
        divergence=optional_number(record.get("divergence")),
        score=fraction(record.get("score")),
        score_error=optional_number(record.get("score_error")),
        auroc=fraction(record.get("auroc")),
    )


def _layer(record: Any) -> LayerCount:
    return LayerCount(
        name=str(record["name"]),
        shape=tuple(count(size) for size in record["shape"]),
        kept=count(record["kept"]),
    )


def _known(kind: Any, record: Any) -> Any:
    """Return a flat record of numbers and strings as its dataclass."""
    names = {field.name: field.type for field in dataclasses.fields(kind)}
    values = {name: value for name, value in mapping(record).items() if name in names}
    for name, value in values.items():
        if names[name] is str:
            values[name] = str(value)
        elif value is not None:
            values[name] = count(value) if "int" in str(names[name]) else number(value)
        elif "None" not in str(names[name]):
            raise TypeError(f"{name} is missing")
    return kind(**values)
