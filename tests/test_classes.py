"""Class folders go by name; by order only where the teacher has no names, and never silently."""

import pytest
from test_evaldata import make_spec

from shared.classes import match_classes
from shared.errors import IncompatibleError


def test_classes_go_by_name_where_the_teacher_knows_the_names() -> None:
    spec = make_spec(names=("dog", "emu", "cat"))

    assert match_classes(["cat", "dog"], spec, "x") == ({"cat": 2, "dog": 0}, ())


def test_classes_go_by_order_where_no_name_is_known() -> None:
    labels, remarks = match_classes(["cat", "dog"], make_spec(), "photos")

    assert labels == {"cat": 0, "dog": 1}
    assert remarks == (
        "the teacher's class names are not known: the classes of photos are taken to be its in "
        "this order: cat, dog; --class-names says otherwise",
    )


def test_names_that_do_not_fit_are_no_order() -> None:
    # As many folders as classes, in another order: the accuracy would be that of guessing.
    spec = make_spec(names=("0", "1"))

    with pytest.raises(IncompatibleError) as caught:
        match_classes(["0", "one"], spec, "photos")
    assert str(caught.value) == (
        "photos: found a class called 'one', expected the teacher's class names (0, 1); rename the "
        "folders, or name the teacher's classes with --class-names"
    )
    assert caught.value.exit_code == 4


def test_a_name_of_two_classes_is_ambiguous() -> None:
    spec = make_spec(names=("crane", "crane", "cat"))

    assert match_classes(["cat"], spec, "x") == ({"cat": 2}, ())
    with pytest.raises(IncompatibleError, match="found 2 classes of the teacher called 'crane'"):
        match_classes(["cat", "crane"], spec, "x")


def test_another_number_of_classes_is_no_order() -> None:
    with pytest.raises(IncompatibleError, match=r"found 3 classes \(a, b, c\).* teacher's 2"):
        match_classes(["a", "b", "c"], make_spec(), "photos")


def test_names_from_a_file_are_safe_to_print() -> None:
    with pytest.raises(IncompatibleError) as caught:
        match_classes(["\x1b[31m"], make_spec(names=("\x1b[2J", "b")), "photos")
    assert str(caught.value).isprintable()
