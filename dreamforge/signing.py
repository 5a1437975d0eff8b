"""Who made this set? Signatures by OpenSSH, which teams have keys for, and which git uses likewise.

What is signed are the bytes of the index. It holds the sha256 of every shard, the labels, the
provenance with its license, and an embedded teacher, so that a signature over it is one over the
set. Anybody can check it without this package:
``ssh-keygen -Y verify -f SIGNERS -I NAME -n dreamforge -s dreams.h5.sig < dreams.h5``.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError, DreamforgeError, DreamSetError, InputFileError
from shared.files import atomic_path

_HEAD = b"-----BEGIN SSH SIGNATURE-----"
NAMESPACE = "dreamforge"  # a signature for mail or git is none for a dream set


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Whose signature is expected.

    Attributes:
        name: As in ``allowed``, such as ``lab@example.org``.
        allowed: Names and their public keys, a line each (``man ssh-keygen``, ALLOWED SIGNERS).
    """

    name: str
    allowed: Path


def signature_path(index: Path) -> Path:
    """Return where the signature of a set lies: beside its index."""
    return index.with_name(f"{index.name}.sig")


def refuse_signed(index: Path, *, overwrite: bool) -> None:
    """Raise ConfigError if there is a signature that may not be replaced."""
    # A folder has no place for one, and is refused for what it is.
    if index.name and signature_path(index).exists() and not overwrite:
        raise ConfigError(f"{signature_path(index)}: is there already; --overwrite signs again")


def sign(index: Path, key: Path, *, overwrite: bool = False) -> Path:
    """Sign the index as it is now, and return where the signature is.

    Args:
        index: Of a finished set.
        key: A private key of OpenSSH, or the public part of one that the ssh agent holds. What
            protects it (a passphrase, a touch) is asked for on the terminal.
        overwrite: Replace the signature that is there.

    Raises:
        ConfigError: If there is a signature already.
        DreamforgeError: If there is no ``ssh-keygen``.
        InputFileError: If ``key`` cannot sign.
    """
    out = signature_path(index)
    refuse_signed(index, overwrite=overwrite)
    key = key.expanduser().resolve()
    answer = _ssh_keygen(["sign", "-n", NAMESPACE, "-f", str(key)], index.read_bytes())
    if answer.returncode != 0:
        raise InputFileError(
            f"{key}: cannot sign ({_last_line(answer.stderr)}); give a private key of OpenSSH, "
            "such as ~/.ssh/id_ed25519"
        )
    with atomic_path(out) as temporary:
        temporary.write_bytes(answer.stdout)
    return out


def check_signature(index: Path, signer: Signer) -> str:
    """Return the key, ``ED25519 SHA256:...``, with which ``signer`` has signed the index.

    Raises:
        DreamSetError: If there is no signature, or another one.
        InputFileError: If there are no allowed signers to read.
        DreamforgeError: If there is no ``ssh-keygen``.
    """
    signature, allowed = signature_path(index), signer.allowed.expanduser().resolve()
    if not allowed.is_file():
        raise InputFileError(
            f"{signer.allowed}: not a file; --allowed-signers expects lines of a name and its "
            "public key"
        )
    if not signature.is_file():
        raise DreamSetError(f"{signature}: not found; the set is not signed, ask {signer.name}")
    files = ["-f", str(allowed), "-s", str(signature.resolve())]
    answer = _ssh_keygen(["verify", "-n", NAMESPACE, "-I", signer.name, *files], index.read_bytes())
    if answer.returncode != 0:
        reason = _last_line(answer.stderr) or _last_line(answer.stdout)
        raise DreamSetError(
            f"{signature}: not a signature of {signer.name} for this index ({reason}); refuse the "
            "set, and ask for it again"
        )
    found = re.search(r"with (\S+) key (\S+)", answer.stdout.decode(errors="replace"))
    return " ".join(found.groups()) if found else "a key of theirs"


def check_fits(index: Path) -> None:
    """Check that a signature beside the index, if there is one of OpenSSH, is over its bytes.

    Whose it is nobody asks here; nor anything where there is no OpenSSH.

    Raises:
        DreamSetError: If it is over other bytes.
    """
    signature = signature_path(index)
    if not _is_of_openssh(signature) or shutil.which("ssh-keygen") is None:
        return
    arguments = ["check-novalidate", "-n", NAMESPACE, "-s", str(signature.resolve())]
    answer = _ssh_keygen(arguments, index.read_bytes())
    reason = _last_line(answer.stderr) or _last_line(answer.stdout)
    if answer.returncode != 0 and "namespace" not in reason:  # that of another program
        raise DreamSetError(
            f"{signature}: not a signature over this index ({reason}); sign it again, or refuse "
            "the set where somebody else did"
        )


def remove_signature(index: Path) -> None:
    """Remove OpenSSH's signature over an index in whose place there is another one."""
    if _is_of_openssh(signature_path(index)):
        signature_path(index).unlink(missing_ok=True)


def _is_of_openssh(path: Path) -> bool:
    """Tell it from what other tools call likewise, such as GnuPG."""
    if not path.is_file():  # a pipe that somebody packed would be waited for
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


def _ssh_keygen(arguments: list[str], message: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", *arguments], input=message, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise DreamforgeError(
            "ssh-keygen: not found; signatures need OpenSSH 8.2 or newer"
        ) from None


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
