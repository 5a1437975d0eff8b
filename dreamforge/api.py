"""``dreamforge`` from Python."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamforge.batch_size import settle_batch_size, with_smaller_batches
from dreamforge.config import SynthesisConfig, refuse_for_sigmoids
from dreamforge.drawings import draw as draw_images
from dreamforge.forge import SynthesisResult, synthesize
from dreamforge.import_images import import_images
from dreamforge.presets import PRESETS, preset_values
from dreamforge.remarks import remarks_on_loss
from dreamforge.units import usual_units
from shared.api import (
    TeacherSource,
    as_path,
    call_text,
    of_kind,
    opened_teacher,
    require_preset,
    shown,
    split_options,
    switches,
    warn,
)
from shared.cli_options import build_config
from shared.device import describe_device, resolve_device
from shared.dreamset import DreamSet
from shared.progress import ProgressCallback
from shared.provenance import provenance
from shared.teacher import Teacher


def synth(
    teacher: TeacherSource,
    out: Path | str = "dreams.h5",
    *,
    preset: str = "default",
    device: str = "auto",
    embed_teacher: bool = False,
    overwrite: bool = False,
    license: str = "unspecified",
    progress: bool | ProgressCallback = True,
    **options: Any,
) -> DreamSet:
    """Invert ``teacher`` into a dream set, and return the set.

    Called again after an interruption, it goes on where it stopped; a finished set is opened.

    Args:
        teacher: An ``nn.Module`` that takes normalised ``(N, C, H, W)`` and answers with logits
            ``(N, K)``, on any device; or the path of a checkpoint. It is left as it is.
        out: Path of the index; the shards lie beside it.
        preset: Settings of a paper; the options win.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        embed_teacher: Put the teacher's weights into the index.
        overwrite: Remove the set that is there first.
        license: SPDX name, for the provenance.
        progress: Whether to show it on stderr; or a function that is told.
        **options: Of the teacher ``image_size`` (pixels, or ``(H, W)``), ``mean`` and ``std`` (one
            number, or one per channel, for pixels in [0, 1]), ``class_names``, ``answers``
            (``softmax`` or ``sigmoid``) and, of a checkpoint, ``arch``. And every setting of
            ``dreamforge synth``, a ``_`` for each ``-`` of its flag: ``n``, which may be called
            ``num_images``, too, ``steps``...

    Warns:
        AssumptionWarning: Of what nobody said and was assumed.

    Raises:
        TypeError: If there is no such option.
        DreamforgeError: As the command does; the classes are those of :mod:`shared.errors`.
    """
    path = as_path("out", out)
    overwrite, embed_teacher = switches(progress, overwrite=overwrite, embed_teacher=embed_teacher)
    license = of_kind("license", license, usual="unspecified")
    settings, facts = split_options("synth", SynthesisConfig, options)
    require_preset(preset, PRESETS)
    where = resolve_device(str(device))
    with opened_teacher(teacher, facts, needs_batch_norm=True) as loaded:
        warn(f"assumed: {text}" for text in loaded.spec.assumptions)
        base = preset_values(preset, max(loaded.spec.image_shape[1:]))
        asked = build_config(SynthesisConfig, settings, base)
        refuse_for_sigmoids(asked, loaded.spec)
        warn(usual_units(loaded, asked.method).remarks)
        config, note = settle_batch_size(loaded, asked, where, path, overwrite=overwrite)
        call = call_text(
            "dreamforge.synth", {"teacher": teacher, "out": path, "preset": preset, **options}
        )
        facts_of_run = provenance(device=describe_device(where), command=call)

        def run(resolved: SynthesisConfig) -> SynthesisResult:
            with shown(progress) as callback:
                return synthesize(
                    loaded,
                    resolved,
                    path,
                    where,
                    provenance=facts_of_run | {"license": license, "preset": preset},
                    embed_teacher=embed_teacher,
                    overwrite=overwrite,
                    progress=callback,
                )

        may_lower = asked.batch_size is None
        result = with_smaller_batches(run, loaded, config, path, may_lower=may_lower)
    warn([note] if note else [])
    warn((*result.notes, *remarks_on_loss(config, result.quality)))
    return DreamSet.open(path)


@dataclass(frozen=True)
class _NoSettings:
    """The options that are no facts of the teacher: none."""


def import_folder(
    folder: Path | str,
    teacher: TeacherSource,
    out: Path | str = "images.h5",
    *,
    device: str = "auto",
    embed_teacher: bool = False,
    overwrite: bool = False,
    license: str = "unspecified",
    progress: bool | ProgressCallback = True,
    **options: Any,
) -> DreamSet:
    """Make a set of the real images in ``folder``, labeled by ``teacher``, and return it.

    For networks without BatchNorm, which cannot be inverted, and wherever real images may be used.

    Args:
        folder: Of images, here and below; no labels are read.
        teacher: As for :func:`synth`; it needs no BatchNorm.
        out: Path of the index.
        device: As for :func:`synth`, like the rest.
        embed_teacher: Put the teacher's weights into the index.
        overwrite: Replace the set that is there.
        license: SPDX name, for the provenance.
        progress: Whether to show it on stderr; or a function that is told.
        **options: Of the teacher, as for :func:`synth`.

    Warns:
        AssumptionWarning: Of what nobody said and was assumed.

    Raises:
        TypeError: If there is no such option.
        DreamforgeError: As the command does.
    """
    source = as_path("folder", folder)

    def write(loaded: Teacher, path: Path, **more: Any) -> None:
        import_images(source, loaded, path, **more)

    return _answered(
        "import_folder",
        {"folder": source, "teacher": teacher, "out": out},
        write,
        options,
        device=device,
        embed_teacher=embed_teacher,
        license=license,
        overwrite=overwrite,
        progress=progress,
    )


def draw(
    teacher: TeacherSource,
    out: Path | str = "scenes.h5",
    *,
    num_images: int = 4096,
    init: str = "scenes",
    seed: int = 0,
    device: str = "auto",
    embed_teacher: bool = False,
    overwrite: bool = False,
    license: str = "unspecified",
    progress: bool | ProgressCallback = True,
    **options: Any,
) -> DreamSet:
    """Make a set of drawn images, labeled by ``teacher``, and return it; nothing is inverted.

    For networks without BatchNorm, where no image may be used either.

    Args:
        teacher: As for :func:`synth`; it needs no BatchNorm.
        out: Path of the index.
        num_images: How many.
        init: ``scenes``, ``natural``, ``pink`` or ``white``, as for :func:`synth`.
        seed: Of the draws.
        device: As for :func:`import_folder`, like the rest.
        embed_teacher: Likewise.
        overwrite: Likewise.
        license: Likewise.
        progress: Likewise.
        **options: Likewise.

    Warns:
        AssumptionWarning: Of what nobody said and was assumed.

    Raises:
        TypeError: If there is no such option.
        DreamforgeError: As the command does.
    """
    num_images = of_kind("num_images", num_images, usual=4096)
    seed = of_kind("seed", seed, usual=0)

    def write(loaded: Teacher, path: Path, **more: Any) -> None:
        draw_images(loaded, num_images, path, kind=init, seed=seed, **more)

    return _answered(
        "draw",
        {"teacher": teacher, "out": out, "num_images": num_images, "init": init, "seed": seed},
        write,
        options,
        device=device,
        embed_teacher=embed_teacher,
        license=license,
        overwrite=overwrite,
        progress=progress,
    )


def _answered(
    function: str,
    arguments: Mapping[str, Any],
    write: Callable[..., None],
    options: Mapping[str, Any],
    *,
    device: str,
    embed_teacher: bool,
    license: str,
    overwrite: bool,
    progress: bool | ProgressCallback,
) -> DreamSet:
    """Let ``write`` make a set of images that are not inverted, and return it."""
    path = as_path("out", arguments["out"])
    overwrite, embed_teacher = switches(progress, overwrite=overwrite, embed_teacher=embed_teacher)
    license = of_kind("license", license, usual="unspecified")
    _, facts = split_options(function, _NoSettings, options)
    where = resolve_device(str(device))
    with opened_teacher(arguments["teacher"], facts) as loaded, shown(progress) as callback:
        warn((f"assumed: {text}" for text in loaded.spec.assumptions), depth=2)
        call = call_text(f"dreamforge.{function}", {**arguments, **options})
        recorded = provenance(device=describe_device(where), command=call) | {"license": license}
        write(
            loaded.to(where),
            path,
            facts=recorded,
            embed_teacher=embed_teacher,
            overwrite=overwrite,
            progress=callback,
        )
    return DreamSet.open(path)
