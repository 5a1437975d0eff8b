import torch

from shared.seeding import derive_seed, generator


def draw(*names):
    return torch.rand(4, generator=generator(*names))


def test_streams_are_reproducible_and_independent():
    assert torch.equal(draw(0, "batch", 3), draw(0, "batch", 3))
    assert not torch.equal(draw(0, "batch", 3), draw(0, "batch", 4))
    assert not torch.equal(draw(0, "batch", 3), draw(1, "batch", 3))
    assert not torch.equal(draw(0, "batch", 3), draw(0, "targets", 3))


def test_names_do_not_run_into_each_other():
    seeds = {
        derive_seed(0, "a", 1, 2),
        derive_seed(0, "a", 12),
        derive_seed(0, "a1", 2),
        derive_seed(0, "a", "1", 2),
        derive_seed(0, "a", "1, 2"),
    }
    assert len(seeds) == 5


def test_seeds_fit_into_a_signed_64_bit_integer():
    assert all(0 <= derive_seed(seed, "x") < 2**63 for seed in range(100))


def test_the_streams_do_not_depend_on_the_process():
    """Fixed for ever, or resumed runs would differ: half of blake2b-64 of ``[0, "batch", 0]``."""
    assert derive_seed(0, "batch", 0) == 1716168922877847308


def test_seeds_are_those_of_earlier_versions():
    assert derive_seed(0, "batch", 7) == 8_041_494_642_376_095_761
    assert derive_seed(2**63 - 1, "batch", 7) == 8_157_207_517_932_362_027
