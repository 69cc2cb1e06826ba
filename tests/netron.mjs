// One model through Netron's own parser. Example: node netron.mjs FOLDER_OF_NETRON model.onnx
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const folder = process.argv[2], model = process.argv[3];
const load = (name) => import(pathToFileURL(`${folder}/${name}.js`).href);
globalThis.window = globalThis.window || { };
const view = await load("view"), base = await load("base");
const host = {
  environment: () => undefined, event: () => {}, exception: (e) => { throw e; }, version: "0", type: "Test",
  require: (id) => load(id.replace("./", "")),
  request: async (file, encoding) => { const d = readFileSync(`${folder}/${file}`); return encoding ? d.toString(encoding) : new base.BinaryStream(d); },
  document: {}, window: globalThis.window,
};
const stream = new base.BinaryStream(readFileSync(model));
const context = { host, identifier: "model.onnx", name: "model.onnx", stream, entries: new Map(), request: host.request, require: host.require, error: host.exception, asset: async (file) => readFileSync(`${folder}/${file}`, "utf8") };
const service = new view.ModelFactoryService(host);
const made = await service.open(context);
const graph = made.modules ? made.modules[0] : made.graphs[0];
console.log(JSON.stringify({ format: made.format, nodes: graph.nodes.length, inputs: graph.inputs.map((x) => x.name), outputs: graph.outputs.map((x) => x.name), operators: [...new Set(graph.nodes.map((n) => n.type.name))].sort() }));
