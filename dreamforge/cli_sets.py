"""The commands of ``dreamforge`` that take a finished dream set: look at it, check it, show it.

Every string of a set comes from a file that somebody else may have made, so it is printed through
:func:`shared.manifest.printable` and never as markup.
"""

import re
from pathlib import Path
from typing import Any

import click

from dreamforge.texts import (
    duration_text,
    files_text,
    method_text,
    numbers_text,
    shape_text,
    size_text,
)
from shared.cli import emit, say, show_table
from shared.cli_options import COUNT, FILE, refuse_unused, teacher_arguments, teacher_options
from shared.cli_progress import progress_display
from shared.spec import SOFTMAX

DREAMS = click.argument("dreams", metavar="DREAMS", type=FILE)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="replace what is there, once the new one is whole"
)
_SYNTHETIC = {True: "yes", False: "NO: real images", None: "unknown: the set does not say"}
AS_JSON = click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")


@click.command()
@DREAMS
@AS_JSON
def info(dreams: Path, as_json: bool) -> None:  # noqa: FBT001
    """Say what is in DREAMS and where it came from. Reads the index only.

    \b
    Example:
      dreamforge info dreams.h5
    """
    from dreamforge.info import describe

    record = describe(dreams)
    emit(record, as_json=as_json, render=lambda: _show_info(record))


@click.command()
@DREAMS
@click.option("--deep", is_flag=True, help="also read every pixel and compare its checksum")
@click.option("--teacher", type=FILE, help="also recompute all logits with this checkpoint")
@teacher_options
@click.option("--device", default="auto", show_default=True, help="for --teacher")
@click.option(
    "--digest", metavar="SHA256", help="the digest that the sender told you: it must be this set"
)
@click.option("--signer", metavar="NAME", help="who must have signed it, as in --allowed-signers")
@click.option(
    "--allowed-signers", type=FILE, help="names and their public keys, as OpenSSH and git take them"
)
@AS_JSON
def verify(
    dreams: Path,
    deep: bool,  # noqa: FBT001
    teacher: Path | None,
    digest: str | None,
    signer: str | None,
    allowed_signers: Path | None,
    as_json: bool,  # noqa: FBT001
    **options: Any,
) -> None:
    """Check that DREAMS is complete and undamaged.

    Exit code 0 if so, 1 if not.

    \b
    Examples:
      dreamforge verify dreams.h5
      dreamforge verify dreams.h5 --deep --teacher resnet50.pt
      dreamforge verify dreams.h5 --signer lab@example.org --allowed-signers signers
    """
    from dreamforge.signing import Signer
    from dreamforge.verify import verify as verify_set

    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise click.UsageError(
            f"--digest: {len(digest)} characters, expected the 64 that info shows"
        )
    expected = None
    if signer is not None and allowed_signers is not None:
        expected = Signer(name=signer, allowed=allowed_signers)
    elif signer is not None or allowed_signers is not None:
        raise click.UsageError("--signer and --allowed-signers go together: give both")
    loaded = _load_teacher(teacher, dreams, options)
    with progress_display() as progress:
        report = verify_set(
            dreams, deep=deep, teacher=loaded, digest=digest, signer=expected, progress=progress
        )
    emit(report.to_json(), as_json=as_json, render=lambda: _show_verification(report))
    if not report.fine:
        raise click.exceptions.Exit(1)


@click.command()
@DREAMS
@click.option("--out", "-o", type=FILE, help="PNG to write  [default: DREAMS with .png]")
@click.option(
    "--classes", type=COUNT, help="how many  [default: what stands in ten lines]", metavar="N"
)
@click.option(
    "--per-class",
    type=COUNT,
    default=8,
    show_default=True,
    help="dreams of each",
    metavar="N",
)
@click.option(
    "--sort",
    type=click.Choice(("confidence", "loss", "random")),
    default="confidence",
    show_default=True,
    help="which dreams of a class come first",
)
@click.option("--scale", type=float, help="magnification  [default: so that dreams are well seen]")
@OVERWRITE
@AS_JSON
def preview(
    dreams: Path,
    out: Path | None,
    classes: int | None,
    per_class: int,
    sort: str,
    scale: float | None,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Draw a contact sheet of DREAMS, a row per class with its name.

    Short rows stand side by side.

    \b
    Example:
      dreamforge preview dreams.h5 --out dreams.png --per-class 12
    """
    from dreamforge.preview import contact_sheet, refuse_taken
    from shared.dreamset import DreamSet
    from shared.files import atomic_path, make_folder_of

    source = DreamSet.open(dreams)
    target = out or dreams.with_suffix(".png")
    refuse_taken(target, overwrite=overwrite)
    sheet = contact_sheet(source, num_classes=classes, per_class=per_class, sort=sort, scale=scale)
    make_folder_of(target)
    with atomic_path(target) as temporary:
        sheet.save(temporary, format="PNG")
    record = {"out": str(target), "width": sheet.width, "height": sheet.height}
    emit(record, as_json=as_json, render=lambda: click.echo(f"contact sheet: {target}"))


@click.command()
@DREAMS
@click.option("--name", help="title  [default: that of the file]")
@click.option("--url", help="where the set is published")
@click.option("--creator", help="person or organization")
@OVERWRITE
@AS_JSON
def card(
    dreams: Path,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **options: str | None,
) -> None:
    """Write README.md and croissant.json beside DREAMS.

    For the Hugging Face hub; both say what the index of the set says.

    \b
    Example:
      dreamforge card dreams.h5 --creator "Example Lab"
    """
    from dreamforge.card import write_card

    readme, croissant = write_card(dreams, overwrite=overwrite, **options)
    record = {"readme": str(readme), "croissant": str(croissant)}
    emit(record, as_json=as_json, render=lambda: click.echo(f"{readme}\n{croissant}"))


@click.command()
@DREAMS
@click.option(
    "--key", type=FILE, required=True, help="private key of OpenSSH, or a public one of the agent's"
)
@OVERWRITE
@AS_JSON
def sign(dreams: Path, key: Path, overwrite: bool, as_json: bool) -> None:  # noqa: FBT001
    """Sign DREAMS with an SSH key, once it has been checked.

    The signature, DREAMS.sig, is over the index, which holds the sha256 of all shards.

    \b
    Example:
      dreamforge sign dreams.h5 --key ~/.ssh/id_ed25519
    """
    from dreamforge.signing import refuse_signed
    from dreamforge.signing import sign as sign_set
    from dreamforge.verify import verify as verify_set

    refuse_signed(dreams, overwrite=overwrite)
    with progress_display() as progress:
        report = verify_set(dreams, signed=False, progress=progress)
    if not report.fine:
        emit(report.to_json(), as_json=as_json, render=lambda: _show_verification(report))
        raise click.exceptions.Exit(1)
    out = sign_set(dreams, key, overwrite=overwrite)
    emit({"signature": str(out)}, as_json=as_json, render=lambda: click.echo(out))


SET_COMMANDS = (info, verify, preview, card, sign)


def _load_teacher(path: Path | None, dreams: Path, options: dict[str, Any]) -> Any:
    """Return the teacher to compare with; what its checkpoint does not say, the set may know."""
    from shared.device import resolve_device
    from shared.errors import DreamSetError
    from shared.shards import read_index
    from shared.teacher import load_teacher

    device = resolve_device(options["device"])  # first: a misspelt one is an error in any case
    arguments = teacher_arguments(options)
    if path is None:
        refuse_unused(arguments, "found no --teacher, expected the checkpoint that it describes")
        return None
    try:
        recorded = read_index(dreams).manifest.teacher
    except DreamSetError:  # the report will say so
        recorded = None
    loaded = load_teacher(path, spec=recorded, **arguments)
    return loaded.to(device)


def _show_info(record: dict[str, Any]) -> None:
    from shared.manifest import printable

    teacher, quality = record["teacher"], record["quality"]
    low, high = record["images_per_class"]
    hours = record["hours"]
    embedded = "embedded" if teacher["embedded"] else f"at {teacher['path']}"
    recognised, loss = quality.get("teacher_accuracy"), quality.get("mean_loss")
    rows = [
        ("images", f"{record['num_images']:,} of {'x'.join(map(str, record['image_shape']))}"),
        ("image size", shape_text(*record["image_shape"])),
        ("mean", numbers_text(teacher["mean"])),
        ("std", numbers_text(teacher["std"])),
        ("classes", f"{record['num_classes_present']} of {record['num_classes']}"),
        ("answers", teacher.get("answers", SOFTMAX)),
        ("images per class", f"{low}" if low == high else f"{low} to {high}"),
        ("size", f"{size_text(record['num_bytes'])} in {files_text(record['num_shards'])}"),
        ("teacher", f"{teacher['architecture']}, weights {embedded}"),
        ("fingerprint", teacher["fingerprint"]),
        ("method", method_text(record["method"], record["steps"])),
        ("synthetic", _SYNTHETIC[record["synthetic"]]),
        ("recognised by the teacher", "-" if recognised is None else f"{recognised:.1%}"),
        ("mean loss", "-" if loss is None else f"{loss:.4g}"),
        ("made", f"{record['created']} on {record['device']}"),
        ("took", "-" if hours is None else duration_text(hours)),
        ("command", record["command"]),
        ("versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items())),
        ("license", record["license"]),
        ("digest", record["digest"]),
        ("signature", f"{record['signature']}, not checked" if record["signature"] else "none"),
    ]
    show_table(
        printable(record["path"]), ("", ""), [(name, printable(value, 160)) for name, value in rows]
    )
    if record["synthetic"] and record["method"] != "draw":
        say("synthetic does not mean private: dreams show what the teacher remembers of its data")


def _show_verification(report: Any) -> None:
    from shared.manifest import printable

    for problem in report.problems:
        click.echo(printable(problem, 400))
    rate = report.num_bytes / max(report.seconds, 1e-9) / 2**20
    verdict = "fine" if report.fine else f"{len(report.problems)} problems"
    click.echo(
        f"{report.path}: {verdict}; {report.num_images:,} images in {report.num_shards} shards, "
        f"{size_text(report.num_bytes)} read at {rate:,.1f} MiB/s"
    )
    if report.signed_with is not None:
        click.echo(f"signed with {printable(report.signed_with, 200)}")
    if report.agreement is not None:
        click.echo(
            f"the teacher's answers agree for {report.agreement:.2%} of the images, "
            f"largest difference of a logit {report.largest_difference:.4f}"
        )
