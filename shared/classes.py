"""Which class folder is which class of the teacher: by name, and only where it has none by order.

A wrong order of the classes looks like a bad student. So nothing is matched by order in silence.
"""

from collections import Counter
from collections.abc import Sequence

from shared.errors import IncompatibleError
from shared.manifest import printable
from shared.spec import TeacherSpec


def match_classes(
    names: Sequence[str], spec: TeacherSpec, source: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the teacher's label of each class name, and remarks on what was assumed.

    Where the teacher's class names are known, classes go by name, and need not be all of them;
    where they are not, as many classes as the teacher has go in the order of ``names``.

    Raises:
        IncompatibleError: If a name is not the teacher's, or is that of several classes; if the
            teacher has no names, and another number of classes.
    """
    if spec.class_names is None:
        return _match_by_order(names, spec, source)
    times = Counter(spec.class_names)
    for name in names:
        if times[name] != 1:
            what = "a class" if times[name] == 0 else f"{times[name]} classes of the teacher"
            raise IncompatibleError(
                f"{source}: found {what} called {printable(name)!r}, expected the teacher's class "
                f"names ({_first(spec.class_names)}); rename the folders, or name the teacher's "
                "classes with --class-names"
            )
    return {name: spec.class_names.index(name) for name in names}, ()


def _match_by_order(
    names: Sequence[str], spec: TeacherSpec, source: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    if len(names) != spec.num_classes:
        raise IncompatibleError(
            f"{source}: found {len(names)} classes ({_first(names)}), expected the teacher's "
            f"{spec.num_classes}, or some of them by name: name all with --class-names"
        )
    remark = (
        f"the teacher's class names are not known: the classes of {printable(source)} are taken to "
        f"be its in this order: {_first(names)}; --class-names says otherwise"
    )
    return {name: label for label, name in enumerate(names)}, (remark,)


def _first(names: Sequence[str]) -> str:
    """Return some names as a list: the first ones, which show how they are ordered."""
    shown = ", ".join(printable(name, 30) for name in names[:4])
    return f"{shown} ..." if len(names) > 4 else shown
