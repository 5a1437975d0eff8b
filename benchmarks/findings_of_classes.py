r"""Tables of findings out of folders with a folder per class: several things true of an image.

    python benchmarks/findings_of_classes.py DIR --out OUT \\
        --findings "animal=bird,cat,deer,dog,frog,horse;flies=airplane,bird"

DIR holds train/ and test/ (made by cifar10_from_npm.py, say); OUT gets train.csv and test.csv, for
train_teacher.py and `recover --eval-data`. No image is copied: the tables name those in DIR.
"""

import argparse
import csv
from pathlib import Path

from runner import ending_well

from shared.errors import ConfigError
from shared.evaldata import list_classes, list_images
from shared.files import atomic_path

# Of CIFAR-10: they overlap, and are there in 10 to 60 % of the images.
OF_CIFAR10 = (
    "animal=bird,cat,deer,dog,frog,horse;flies=airplane,bird;wheels=airplane,automobile,truck;"
    "hooves=deer,horse;pet=cat,dog;metal=airplane,automobile,ship,truck;water=frog,ship;road=automobile,truck"
)


def parse_findings(text: str, classes: list[str]) -> dict[str, set[str]]:
    """Return the classes in which each finding is present.

    Raises:
        ConfigError: If one has none, or a class is not there.
    """
    findings = {}
    for part in text.split(";"):
        name, _, members = part.partition("=")
        found = {member.strip() for member in members.split(",") if member.strip()}
        if not name.strip() or not found or not found <= set(classes):
            raise ConfigError(
                f"--findings: found {part!r}, expected NAME=CLASS,... of {', '.join(classes)}"
            )
        findings[name.strip()] = found
    return findings


def write_table(folder: Path, findings: dict[str, set[str]], out: Path) -> int:
    """Write the table of the images in ``folder`` to ``out``; return how many there are."""
    num_images = 0
    with atomic_path(out) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", *findings])
        for name in list_classes(folder):
            values = [int(name in members) for members in findings.values()]
            for path in list_images(folder / name):
                table.writerow([path.resolve(), *values])
                num_images += 1
    return num_images


def main() -> int:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--findings", default=OF_CIFAR10, metavar="NAME=CLASS,...;...")
    options = parser.parse_args()
    findings = parse_findings(options.findings, list_classes(options.data / "train"))
    options.out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        out = options.out / f"{split}.csv"
        print(f"{out}: {write_table(options.data / split, findings, out)} images")
    return 0


if __name__ == "__main__":
    ending_well(main)
