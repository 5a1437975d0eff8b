"""Signatures over dream sets, against OpenSSH's own word."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from dreamset_fixtures import write_dream_set

import dreamforge.cli
from dreamforge.forge import synthesize
from dreamforge.info import describe
from dreamforge.signing import (
    NAMESPACE,
    Signer,
    check_signature,
    remove_signature,
    sign,
    signature_path,
)
from dreamforge.verify import verify
from shared.errors import ConfigError, DreamforgeError, DreamSetError, InputFileError

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")
LAB = "lab@example.org"


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A folder with the keys ``lab`` and ``other``, and ``signers``, which knows both."""
    folder = tmp_path_factory.mktemp("keys")
    lines = []
    for name in ("lab", "other"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)],
            check=True,
        )
        public = (folder / f"{name}.pub").read_text().strip()
        lines.append(f"{name}@example.org {public}\n")
    (folder / "signers").write_text("".join(lines))
    return folder


@pytest.fixture
def lab(keys: Path) -> Signer:
    return Signer(name=LAB, allowed=keys / "signers")


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    index = write_dream_set(tmp_path)
    assert sign(index, keys / "lab") == tmp_path / "dreams.h5.sig"
    return index


def test_openssh_itself_accepts_the_signature(signed: Path, keys: Path) -> None:
    command = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, "-I", LAB]
    files = ["-f", str(keys / "signers"), "-s", f"{signed}.sig"]
    with signed.open("rb") as stream:
        subprocess.run([*command, *files], stdin=stream, check=True, capture_output=True)


def test_the_signers_key_is_named(signed: Path, keys: Path, lab: Signer) -> None:
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(keys / "lab.pub")],
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprint = shown.stdout.split()[1]

    assert check_signature(signed, lab) == f"ED25519 {fingerprint}"
    report = verify(signed, signer=lab)
    assert report.fine
    assert report.signed_with == f"ED25519 {fingerprint}"
    assert describe(signed)["signature"] == "dreams.h5.sig"


def test_one_changed_byte_of_index_or_shard_is_found(signed: Path, lab: Signer) -> None:
    """Whoever changes a shard must change the index, which holds its sha256."""
    shard = next(iter(sorted(signed.parent.glob("dreams-0*.h5"))))
    whole, part = signed.read_bytes(), shard.read_bytes()
    for path, data in ((signed, whole), (shard, part)):
        changed = bytearray(data)
        changed[-1] ^= 1
        path.write_bytes(bytes(changed))
        assert not verify(signed, signer=lab).fine, path
        path.write_bytes(data)
    assert verify(signed, signer=lab).fine


def test_the_license_is_signed_too(tmp_path: Path, keys: Path, lab: Signer) -> None:
    """The digest does not cover the provenance; the signature does."""
    index = write_dream_set(tmp_path, provenance={"license": "CC-BY-4.0"})
    sign(index, keys / "lab")
    digest = describe(index)["digest"]
    write_dream_set(tmp_path, provenance={"license": "CC0-1.0"})

    assert describe(index)["digest"] == digest
    (problem,) = verify(index, digest=digest).problems
    assert "dreams.h5.sig: not a signature over this index" in problem
    assert verify(index, signed=False).fine
    with pytest.raises(DreamSetError, match=r"not a signature of lab@example\.org for this index"):
        check_signature(index, lab)


def test_another_signer_another_key_and_another_purpose_are_refused(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    stranger = Signer(name="stranger@example.org", allowed=keys / "signers")
    other = Signer(name="other@example.org", allowed=keys / "signers")
    for signer in (stranger, other):
        report = verify(signed, signer=signer)
        assert len(report.problems) == 1
        assert f"not a signature of {signer.name}" in report.problems[0]
        assert report.signed_with is None

    elsewhere = tmp_path / "for-git"
    shutil.copytree(signed.parent, elsewhere, ignore=shutil.ignore_patterns("for-git", "*.sig"))
    index = elsewhere / "dreams.h5"
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(keys / "lab"), str(index)],
        check=True,
        capture_output=True,
    )
    with pytest.raises(DreamSetError, match="not a signature of lab"):
        check_signature(index, Signer(name=LAB, allowed=keys / "signers"))


def test_a_set_without_signature_is_a_problem_and_a_missing_list_an_error(
    tmp_path: Path, keys: Path, lab: Signer
) -> None:
    index = write_dream_set(tmp_path)

    assert "is not signed, ask lab@example.org" in verify(index, signer=lab).problems[0]
    assert describe(index)["signature"] is None
    with pytest.raises(InputFileError, match="--allowed-signers expects lines of a name"):
        verify(index, signer=Signer(name=LAB, allowed=tmp_path / "nobody"))
    with pytest.raises(InputFileError, match=r"nokey: cannot sign .*; give a private key"):
        sign(index, keys / "nokey")
    assert not (tmp_path / "dreams.h5.sig").exists()


def test_a_signature_is_replaced_only_when_asked(signed: Path, keys: Path) -> None:
    before = (signed.parent / "dreams.h5.sig").read_bytes()
    with pytest.raises(ConfigError, match="is there already; --overwrite"):
        sign(signed, keys / "other")
    assert (signed.parent / "dreams.h5.sig").read_bytes() == before

    sign(signed, keys / "other", overwrite=True)
    assert check_signature(signed, Signer(name="other@example.org", allowed=keys / "signers"))


def test_a_set_in_the_place_of_a_signed_one_has_no_signature(
    runner, signed: Path, tmp_path: Path
) -> None:
    assert verify(signed).fine
    unpacked = tmp_path / "other"
    unpacked.mkdir()
    other = write_dream_set(unpacked, provenance={"license": "CC0-1.0"})
    words = ["unpack", str(other), "--out", str(signed), "--overwrite"]
    assert runner.invoke(dreamforge.cli.main, words).exit_code == 0

    assert describe(signed)["signature"] is None
    assert verify(signed).fine


def test_a_signature_stays_until_its_index_is_replaced(
    tiny_teacher, tiny_config, tmp_path: Path, keys: Path, monkeypatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    index, cpu = tmp_path / "dreams.h5", torch.device("cpu")
    synthesize(tiny_teacher, tiny_config, index, cpu)
    sign(index, keys / "lab")
    with monkeypatch.context() as patched:
        patched.setattr("dreamforge.finish.write_index", full)
        with pytest.raises(OSError, match="No space"):
            synthesize(tiny_teacher, tiny_config, index, cpu, embed_teacher=True)
    assert describe(index)["signature"] is not None
    assert verify(index).fine

    synthesize(tiny_teacher, tiny_config, index, cpu, embed_teacher=True)
    assert describe(index)["signature"] is None


def test_a_stale_signature_is_named_and_can_be_replaced(runner, signed: Path, keys: Path) -> None:
    write_dream_set(signed.parent, provenance={"license": "CC0-1.0"})
    result = runner.invoke(dreamforge.cli.main, ["verify", str(signed)])
    assert result.exit_code == 1
    assert "sign it again" in result.output

    words = ["sign", str(signed), "--key", str(keys / "lab"), "--overwrite"]
    assert runner.invoke(dreamforge.cli.main, words).exit_code == 0
    assert verify(signed).fine


def test_a_signature_of_another_tool_is_left_alone(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    signature_path(index).write_bytes(b"\x89\x02of GnuPG")
    remove_signature(index)
    assert signature_path(index).is_file()
    assert verify(index).fine


def test_a_signature_for_another_purpose_is_not_judged(tmp_path: Path, keys: Path) -> None:
    index = write_dream_set(tmp_path)
    command = ["ssh-keygen", "-Y", "sign", "-f", str(keys / "lab"), "-n", "file", str(index)]
    subprocess.run(command, check=True, capture_output=True)
    assert signature_path(index).is_file()
    assert verify(index).fine


def test_a_pipe_in_the_place_of_a_signature_is_not_waited_for(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    os.mkfifo(signature_path(index))
    assert verify(index).fine
    remove_signature(index)
    assert signature_path(index).is_fifo()


def test_without_openssh_one_line_says_so(signed: Path, lab: Signer, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DreamforgeError, match=r"ssh-keygen: not found; signatures need OpenSSH"):
        check_signature(signed, lab)


def test_the_digest_that_was_told(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    digest = describe(index)["digest"]

    assert verify(index, digest=digest.upper()).fine
    (problem,) = verify(index, digest="0" * 64).problems
    assert f"digest {digest}, expected {'0' * 64}" in problem


def test_the_commands(runner, tmp_path: Path, keys: Path) -> None:
    index = write_dream_set(tmp_path)

    def call(*arguments: str, code: int = 0) -> str:
        result = runner.invoke(dreamforge.cli.main, [*arguments])
        assert result.exit_code == code, result.output
        return result.stdout if "--json" in arguments else result.output

    shown = call("info", str(index))
    assert "none" in next(line for line in shown.splitlines() if "signature" in line)
    call("sign", str(index), "--key", str(keys / "lab"))
    assert "dreams.h5.sig, not checked" in call("info", str(index))
    by = ("--allowed-signers", str(keys / "signers"))
    assert "signed with ED25519 SHA256:" in call("verify", str(index), "--signer", LAB, *by)
    record = json.loads(call("verify", str(index), "--signer", LAB, *by, "--json"))
    assert record["signed_with"].startswith("ED25519 SHA256:")
    assert "refuse" in call("verify", str(index), "--signer", "x@y", *by, code=1)
    assert "give both" in call("verify", str(index), *by, code=2)
    assert "expected the 64" in call("verify", str(index), "--digest", "abc", code=2)

    shard = next(iter(sorted(tmp_path.glob("dreams-0*.h5"))))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "expected" in call("sign", str(index), "--key", str(keys / "lab"), "--overwrite", code=1)
    # The set is not even read where its signature is in the way.
    assert "is there already" in call("sign", str(index), "--key", str(keys / "lab"), code=2)


@pytest.mark.parametrize("damaged", [True, False])
def test_what_hinders_signing_is_json_too(runner, tmp_path: Path, keys: Path, damaged: bool):
    index = write_dream_set(tmp_path)
    if damaged:
        (tmp_path / "dreams-00000-of-00002.h5").write_bytes(b"no shard")
    else:
        index = tmp_path / "missing.h5"

    words = ["sign", str(index), "--key", str(keys / "lab"), "--json"]
    result = runner.invoke(dreamforge.cli.main, words)

    assert result.exit_code == 1, result.output
    record = json.loads(result.stdout)
    assert record["fine"] is False
    assert len(record["problems"]) == 1
