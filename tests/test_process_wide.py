"""A setting of the process is one value for all threads: who leaves first may not end it."""

from contextlib import ExitStack

import pytest

from shared.process_wide import ProcessWide


class Setting:
    """Some setting, and what it is needed to be."""

    def __init__(self) -> None:
        self.value = "usual"
        self.wide = ProcessWide(lambda: self.value, self.write, needed="ours")

    def write(self, value: str) -> None:
        self.value = value


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_the_last_of_overlapping_blocks_restores(first_to_leave: int) -> None:
    setting = Setting()
    blocks = [ExitStack(), ExitStack()]
    for block in blocks:
        block.enter_context(setting.wide.held())

    blocks[first_to_leave].close()
    assert setting.value == "ours"
    blocks[1 - first_to_leave].close()
    assert setting.value == "usual"


def test_what_another_thread_sets_before_its_own_block_is_restored() -> None:
    setting = Setting()
    with setting.wide.held():
        setting.value = "other"
        with setting.wide.held():
            assert setting.value == "ours"
        assert setting.value == "ours"
    assert setting.value == "other"


def test_it_is_restored_after_an_error() -> None:
    setting = Setting()
    with pytest.raises(KeyError), setting.wide.held():
        raise KeyError
    assert setting.value == "usual"
    with setting.wide.held():
        assert setting.value == "ours"
    assert setting.value == "usual"
