"""Published accuracies of data-free transfer on the original CIFAR-10, in %.

Not measured here, and not on a JPEG copy: the authors' teachers, images and budgets. Most are the
best step on the test images; what a user without images gets at the last step is lower
(ljrprocc/datafree compares the two).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Accuracies of one pair in %.

    Attributes:
        teacher: Of the literature's teacher.
        on_real: The student, trained on the real images.
        on_dreams: The student by method, in the order of :data:`METHODS`.
    """

    teacher: float
    on_real: float
    on_dreams: tuple[float, ...]


METHODS = ("DeepInversion", "CMI", "FastDFKD", "AdaDFKD")
SOURCES = (
    "DeepInversion: Yin et al. 2020 (arXiv:1912.08795) with the adaptive term, as measured by Fang "
    "et al. (github.com/zju-vipa/Fast-Datafree; 42 GPU hours for ResNet-34)",
    "CMI: Fang et al. 2021 (github.com/zju-vipa/CMI), CMI-500 (19 GPU hours)",
    "FastDFKD: Fang et al. 2022 (github.com/zju-vipa/Fast-Datafree), Fast-10 (0.28 GPU hours)",
    "AdaDFKD: the README of its repository",
)
# Our names of teacher and student. The literature's VGG-11 has BatchNorm, too.
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("cifar_resnet34", "cifar_resnet18"): Published(
        teacher=95.70, on_real=95.20, on_dreams=(93.26, 94.84, 94.05, 95.32)
    ),
    ("cifar_vgg11_bn", "cifar_resnet18"): Published(
        teacher=92.25, on_real=95.20, on_dreams=(90.36, 91.13, 90.53, 92.19)
    ),
    ("wrn_40_2", "wrn_16_1"): Published(
        teacher=94.87, on_real=91.12, on_dreams=(83.04, 90.01, 89.29, 90.05)
    ),
    ("wrn_40_2", "wrn_40_1"): Published(
        teacher=94.87, on_real=93.94, on_dreams=(86.85, 92.78, 92.51, 93.38)
    ),
    ("wrn_40_2", "wrn_16_2"): Published(
        teacher=94.87, on_real=93.95, on_dreams=(89.72, 92.52, 92.45, 93.15)
    ),
}
