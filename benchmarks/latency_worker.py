"""Seconds of each run of several models under one runtime, in turns. Any Python with numpy and that runtime can run it.

    python benchmarks/latency_worker.py onnxruntime|openvino JOB.json

The job: models (name -> path), shape [c, h, w], batch, threads, rounds, seconds. stdout: version, and name -> seconds, in JSON. One turn at least.
"""

import json
import sys
import time

import numpy as np


def onnxruntime(path, batch, shape, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return ort.__version__, lambda images: session.run(None, {name: images})


def openvino(path, batch, shape, threads):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape([batch, *shape])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", settings)
    return ov.__version__.split("-")[0], lambda images: compiled([images])


def main(runtime, path):
    with open(path) as file:
        job = json.load(file)
    images = np.random.default_rng(0).standard_normal((job["batch"], *job["shape"])).astype(np.float32)
    runs = {}
    for name, model in job["models"].items():
        version, runs[name] = {"onnxruntime": onnxruntime, "openvino": openvino}[runtime](
            model, job["batch"], job["shape"], job["threads"]
        )
    seconds = {name: [] for name in runs}
    for run in runs.values():
        run(images)
    end = time.perf_counter() + job["seconds"]
    for turn in range(job["rounds"]):
        if turn and time.perf_counter() > end:
            break
        for name, run in runs.items():
            run(
                images
            )  # untimed: the threads of the model before have gone to sleep, and the caches hold this one's weights
            start = time.perf_counter()
            run(images)
            seconds[name].append(time.perf_counter() - start)
    print(json.dumps({"version": version, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
