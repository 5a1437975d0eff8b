from datetime import datetime

import pytest

from shared.errors import ConfigError
from shared.provenance import is_reproducible_build, now, provenance


def test_the_date_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")

    assert is_reproducible_build()
    assert provenance(device="cpu", command="x")["created"] == "1970-01-02T00:00:00+00:00"


@pytest.mark.parametrize("text", ["99999999999999", "-1", "1.5", "now", "\u00b2", "9" * 5000, " 1"])
def test_a_date_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)

    with pytest.raises(ConfigError, match=r"SOURCE_DATE_EPOCH: found .*; correct or unset it"):
        now()


def test_without_one_it_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")

    assert not is_reproducible_build()
    assert abs((now() - datetime.now(now().tzinfo)).total_seconds()) < 60
