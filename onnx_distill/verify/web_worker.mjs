// One ONNX model on stored images under onnxruntime-web (WebAssembly) in Node. The job is worker.py's.
// Example: node web_worker.mjs job.json, in a folder where `npm install onnxruntime-web` was run.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/");
const ort = await import(pathToFileURL(require.resolve("onnxruntime-web")).href);
const job = JSON.parse(readFileSync(process.argv[2], "utf8"));

const bytes = readFileSync(job.images);
const images = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const [count, ...shape] = job.shape;
const size = shape.reduce((a, b) => a * b, 1);
ort.env.logLevel = "error";
if (job.threads) ort.env.wasm.numThreads = job.threads;
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(job.model)), { executionProviders: ["wasm"] });

const parts = session.outputNames.map(() => []);
const types = session.outputNames.map(() => ({}));
for (let start = 0; start < count; start += job.batch) {
  const end = Math.min(start + job.batch, count);
  const batch = new ort.Tensor("float32", images.slice(start * size, end * size), [end - start, ...shape]);
  const results = await session.run({ [session.inputNames[0]]: batch });
  session.outputNames.forEach((name, i) => {
    const { type, dims, data } = results[name];
    types[i] = { name, dtype: type, shape: [count, ...dims.slice(1)] };
    parts[i].push(Buffer.from(data.slice().buffer)); // a copy: the runtime uses its memory again
  });
}
writeFileSync(job.outputs, Buffer.concat(parts.flat()));
const version = JSON.parse(readFileSync(process.cwd() + "/node_modules/onnxruntime-web/package.json", "utf8")).version;
console.log(JSON.stringify({ version, outputs: types }));
