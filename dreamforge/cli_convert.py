"""The commands of ``dreamforge`` that make one set out of others, or another format of one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreamforge.cli_sets import AS_JSON, DREAMS, OVERWRITE
from dreamforge.config import STARTS
from dreamforge.texts import size_text
from dreamforge.unfinished import goes_on
from shared.cli import command_line, emit, remark
from shared.cli_options import COUNT, FILE, PROBABILITY, teacher_arguments, teacher_options
from shared.cli_progress import progress_display

if TYPE_CHECKING:
    from shared.manifest import Manifest
    from shared.teacher import Teacher

OUT = click.option("--out", "-o", type=FILE, required=True, help="index file to write")
COMPRESS = click.option("--compress", "compression", is_flag=True, help="gzip the images")
SHARD_SIZE = click.option(
    "--shard-size", type=COUNT, metavar="N", help="images per shard  [default: 64 MiB of them]"
)
TEACHER = click.option(
    "--teacher",
    type=FILE,
    required=True,
    help="checkpoint: .pt, .pth, .safetensors, or a folder of the Hugging Face hub",
)

DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1")
LICENSE = click.option(
    "--license", "licence", default="unspecified", help="SPDX name, for the provenance"
)
EMBED = click.option(
    "--embed-teacher", is_flag=True, help="put the teacher's weights into the index"
)


def writing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that writes a dream set of several files."""
    for option in (AS_JSON, OVERWRITE, COMPRESS, SHARD_SIZE, OUT):
        command = option(command)
    return command


def answering(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command in which a teacher answers images that are there."""
    for option in (EMBED, LICENSE, DEVICE):
        command = option(command)
    return command


@click.command()
@click.argument("sources", metavar="DREAMS...", type=FILE, nargs=-1, required=True)
@writing
def merge(sources: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Join several sets of one teacher into one.

    Its provenance names each source.

    \b
    Example:
      dreamforge merge seed0.h5 seed1.h5 --out dreams.h5
    """
    from dreamforge.merge import merge as merge_sets

    with progress_display() as progress:
        manifest = merge_sets(sources, out, facts=_facts(), progress=progress, **options)
    _emit_set(out, manifest, as_json=as_json)


@click.command("filter")
@DREAMS
@click.option(
    "--min-confidence", type=PROBABILITY, metavar="P", help="least probability of the label"
)
@click.option("--agree", is_flag=True, help="only where the teacher's answer is the label")
@click.option("--per-class", type=COUNT, metavar="N", help="the N most confident of each class")
@click.option(
    "--n", "num_images", type=COUNT, metavar="N", help="N in all, balanced, the most confident"
)
@writing
def filter_(dreams: Path, out: Path, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Write the dreams that meet all criteria as a smaller set.

    They keep their order.

    \b
    Examples:
      dreamforge filter dreams.h5 --agree --min-confidence 0.9 --out sure.h5
      dreamforge filter dreams.h5 --n 1000 --out small.h5
    """
    from dreamforge.filter import Criteria, filter_set

    names = ("min_confidence", "agree", "per_class", "num_images")
    criteria = Criteria(**{name: options.pop(name) for name in names})
    with progress_display() as progress:
        manifest = filter_set(dreams, out, criteria, facts=_facts(), progress=progress, **options)
    _emit_set(out, manifest, as_json=as_json)


@click.command()
@DREAMS
@OUT
@COMPRESS
@OVERWRITE
@AS_JSON
def pack(dreams: Path, out: Path, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Put a set of at most 2 GiB into one file.

    \b
    Example:
      dreamforge pack dreams.h5 --out dreams-packed.h5
    """
    from dreamforge.pack import pack as pack_set

    _emit_set(out, pack_set(dreams, out, **options), as_json=as_json)


@click.command()
@DREAMS
@writing
def unpack(dreams: Path, out: Path, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Put a set into index and shards.

    For a packed set, or one with shards of another size.

    \b
    Example:
      dreamforge unpack dreams-packed.h5 --out dreams.h5
    """
    from dreamforge.pack import unpack as unpack_set

    with progress_display() as progress:
        manifest = unpack_set(dreams, out, progress=progress, **options)
    _emit_set(out, manifest, as_json=as_json)


@click.command()
@DREAMS
@click.option(
    "--to",
    type=click.Choice(("imagefolder", "webdataset", "npz")),
    required=True,
    help="folders of PNG, tar files, or one file of NumPy arrays",
)
@click.option("--out", "-o", type=FILE, required=True, help="folder, or file for npz")
@OVERWRITE
@AS_JSON
def export(dreams: Path, to: str, out: Path, overwrite: bool, as_json: bool) -> None:  # noqa: FBT001
    """Write the dreams for other tools. Pixels stay exact; imagefolder has no logits.

    \b
    Examples:
      dreamforge export dreams.h5 --to imagefolder --out folder
      dreamforge export dreams.h5 --to npz --out dreams.npz
    """
    from dreamforge.export import export as export_set
    from shared.dreamset import DreamSet

    source = DreamSet.open(dreams)
    with progress_display() as progress:
        num_files = export_set(source, out, to, overwrite=overwrite, progress=progress)
    record = {
        "out": str(out),
        "to": to,
        "num_images": source.num_images,
        "num_files": num_files,
    }
    line = f"{out}: {source.num_images:,} images in {num_files:,} files"
    emit(record, as_json=as_json, render=lambda: click.echo(line))


@click.command("import")
@click.argument("folder", metavar="FOLDER", type=FILE)
@TEACHER
@teacher_options
@answering
@writing
def import_(
    folder: Path,
    teacher: Path,
    out: Path,
    as_json: bool,  # noqa: FBT001
    licence: str,
    **options: Any,
) -> None:
    """Make a transfer set of the real images in FOLDER.

    They may lie in folders, per class or otherwise, whose names are not looked at. Labels and
    logits are the teacher's answers, and the provenance says that the images are real. The same
    command again goes on where it stopped.

    The teacher needs no BatchNorm here, nor in recover: this is the way for networks that cannot
    be inverted.

    \b
    Example:
      dreamforge import imagenet/val --teacher resnet50.pt --out real.h5
    """
    with goes_on(out):
        from dreamforge.import_images import import_images

        loaded, facts, said = _answering(teacher, licence, options)
        with progress_display() as progress:
            manifest = import_images(folder, loaded, out, facts=facts, progress=progress, **options)
    _emit_set(out, manifest, as_json=as_json, said=said)


@click.command()
@TEACHER
@teacher_options
@click.option(
    "--n",
    "num_images",
    type=COUNT,
    default=4096,
    show_default=True,
    metavar="N",
    help="number of images",
)
@click.option(
    "--init",
    "kind",
    type=click.Choice(STARTS),
    default="scenes",
    show_default=True,
    help="what to draw: that with which `synth --init` begins",
)
@click.option("--seed", type=int, default=0, show_default=True, help="of the draws")
@answering
@writing
def draw(
    teacher: Path,
    num_images: int,
    out: Path,
    as_json: bool,  # noqa: FBT001
    licence: str,
    **options: Any,
) -> None:
    """Make a transfer set of drawn scenes: nothing is inverted.

    For networks without BatchNorm, which nobody can invert, where no image may be used either.
    Scenes show none of the classes: students learn less of them than of dreams, or of images. The
    same command again goes on where it stopped.

    \b
    Example:
      dreamforge draw --teacher vit.safetensors --n 4096 --out scenes.h5
    """
    with goes_on(out):
        from dreamforge.drawings import draw as draw_set

        loaded, facts, said = _answering(teacher, licence, options)
        with progress_display() as progress:
            manifest = draw_set(loaded, num_images, out, facts=facts, progress=progress, **options)
    _emit_set(out, manifest, as_json=as_json, said=said)


def _answering(path: Path, licence: str, given: dict[str, Any]) -> tuple["Teacher", Any, list[str]]:
    """Take the teacher out of a command's options; return it, the provenance, what is assumed."""
    from shared.device import resolve_device
    from shared.manifest import printable
    from shared.teacher import load_teacher

    device = given.pop("device")
    names = ("arch", "image_size", "mean", "std", "class_names", "answers")
    loaded = load_teacher(path, **teacher_arguments({name: given.pop(name) for name in names}))
    said = remark("assumed", (printable(text, 200) for text in loaded.spec.assumptions))
    return loaded.to(resolve_device(device)), {**_facts(device), "license": licence}, said


CONVERSIONS = (merge, filter_, pack, unpack, export, import_, draw)


def _facts(device: str = "cpu") -> dict[str, Any]:
    from shared.device import describe_device, resolve_device
    from shared.provenance import provenance

    return provenance(device=describe_device(resolve_device(device)), command=command_line())


def _emit_set(out: Path, manifest: "Manifest", *, as_json: bool, said: Sequence[str] = ()) -> None:
    num_bytes = out.stat().st_size + sum(shard.num_bytes for shard in manifest.shards)
    record = {
        "out": str(out),
        "num_images": manifest.num_images,
        "num_shards": len(manifest.shards),
        "num_bytes": num_bytes,
        "digest": manifest.digest(),
        "teacher": manifest.teacher.fingerprint,
        "quality": manifest.quality,
        "warnings": list(said),
    }
    where = f"in {len(manifest.shards)} shards" if manifest.shards else "in one file"
    line = f"{out}: {manifest.num_images:,} images {where}, {size_text(num_bytes)}"
    emit(record, as_json=as_json, render=lambda: click.echo(line))
