"""Bring Fashion-MNIST (four gzipped IDX files, 30 MB) to a folder: from a local copy, Debian's package, or upstream.

    python scripts/get_data.py                 # to ./data; files that are there and right are left alone
    python scripts/get_data.py --from DIR      # look in DIR first

Every file is checked by its sha256 and appears by rename. Exit code 1, with one line that says what was tried, if files
are still missing at the end. Needs nothing but Python; the Debian package needs apt-get and dpkg-deb, but no root.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
UPSTREAM = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
PACKAGE = "dataset-fashion-mnist"
IN_PACKAGE = "usr/share/datasets/fashion-mnist"
TIMEOUT_SECONDS = 60  # without an answer
APT_SECONDS = 300  # for a whole apt-get command

Read = Callable[[str], bytes]  # a file's name -> what it holds; OSError when it cannot be had


def missing(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Names of the files that are not in the folder, or not the right ones."""
    return [name for name, digest in wanted.items() if not _is_right(folder / name, digest)]


def _is_right(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def bring(folder: Path, wanted: dict[str, str], sources: dict[str, Read]) -> list[str]:
    """Put what is missing into the folder, from the first source that has it; returns why each source that failed did.

    Says on stderr what came from where. What has the wrong sha256 is not written.
    """
    failures = []
    folder.mkdir(parents=True, exist_ok=True)
    for source, read in sources.items():
        for name in missing(folder, wanted):
            try:
                content = read(name)
                _check(name, content, wanted[name])
            except OSError as error:
                failures.append(f"{source}: {error}")
                break
            _write(folder / name, content)
            print(f"{folder / name} from {source}", file=sys.stderr)
    return failures


def _check(name: str, content: bytes, digest: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise OSError(f"{name} has sha256 {found[:12]}..., wanted {digest[:12]}...")


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def from_folder(folder: Path) -> Read:
    def read(name: str) -> bytes:
        if not (folder / name).is_file():
            raise OSError(f"has no {name}")
        return (folder / name).read_bytes()

    return read


def from_debian(scratch: Path) -> Read:
    """Downloads and unpacks the package into `scratch` when the first file is asked for."""

    def read(name: str) -> bytes:
        if not (scratch / IN_PACKAGE).is_dir():
            _unpack_package(scratch)
        return from_folder(scratch / IN_PACKAGE)(name)

    return read


def _unpack_package(scratch: Path) -> None:
    try:
        _command(["apt-get", "download", PACKAGE], scratch)
    except OSError:
        if os.geteuid() != 0:
            raise
        _command(["apt-get", "update"], scratch)  # a fresh container has no package lists
        _command(["apt-get", "download", PACKAGE], scratch)
    packages = list(scratch.glob("*.deb"))
    if not packages:
        raise OSError(f"apt-get download {PACKAGE} left no file")
    _command(["dpkg-deb", "-x", str(packages[0]), "."], scratch)


def _command(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            timeout=APT_SECONDS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise OSError(f"there is no {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(command[:2])} took more than {APT_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
        raise OSError(f"{' '.join(command[:2])} failed ({said[-1]})") from None


def from_upstream(name: str) -> bytes:
    with urllib.request.urlopen(UPSTREAM + name, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring Fashion-MNIST to a folder, each file checked by its sha256.")
    parser.add_argument("--from", dest="local", type=Path, metavar="DIR", help="a folder to look in first")
    parser.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="where to put it (default: data)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)  # apt-get, run by root, writes as its own user and must get in
        local = [options.local] if options.local else []
        sources = {str(folder): from_folder(folder) for folder in [*local, Path("/", IN_PACKAGE)]}
        sources[f"Debian's package {PACKAGE}"] = from_debian(Path(scratch))
        sources[UPSTREAM] = from_upstream
        try:
            failures = bring(options.to, SHA256, sources)
        except OSError as error:
            print(f"error: cannot write to {options.to}: {error.strerror or error}", file=sys.stderr)
            return 1
    left = missing(options.to, SHA256)
    if left:
        print(f"error: {', '.join(left)} could not be had; tried {'; '.join(failures)}", file=sys.stderr)
        return 1
    print(f"Fashion-MNIST is in {options.to}, all four files with the right sha256", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
