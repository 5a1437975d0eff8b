"""Write scikit-learn's handwritten digits as folders of PNG files: OUT/train/7/0123.png.

    python benchmarks/digits.py OUT

1,797 real digits of 8x8 pixels and 16 gray levels (UCI optdigits, its test set; E. Alpaydin and
C. Kaynak, CC BY 4.0). 70 % of each class go into train/, the rest into test/, the same split
each time. Needs scikit-learn: pip install -e '.[demo]'.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from shared.seeding import generator

TRAIN_FRACTION = 0.7
SEED = 0


def write_digits(out: Path) -> dict[str, int]:
    """Write both splits below ``out`` and return the number of images in each."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    counts = {"train": 0, "test": 0}
    for digit in range(10):
        rows = np.flatnonzero(digits.target == digit)
        order = torch.randperm(len(rows), generator=generator(SEED, "digits", digit)).numpy()
        num_train = round(TRAIN_FRACTION * len(rows))
        for position, row in enumerate(rows[order]):
            split = "train" if position < num_train else "test"
            folder = out / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[row]).save(folder / f"{row:04d}.png")
            counts[split] += 1
    return counts


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for train/ and test/")
    out = parser.parse_args().out
    counts = write_digits(out)
    print(f"{out}: {counts['train']} training and {counts['test']} test images")


if __name__ == "__main__":
    main()
