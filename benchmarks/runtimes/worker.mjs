// What worker.py is, for onnxruntime-node: node worker.mjs FOLDER JOBS ANSWERS, the folder with its node_modules.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { answer } from "./answer.mjs";

const [folder, jobs, answers] = process.argv.slice(2);
const need = createRequire(path.resolve(folder, "package.json"));
const ort = need("onnxruntime-node");
const { version } = JSON.parse(fs.readFileSync(path.join(folder, "node_modules/onnxruntime-node/package.json")));
for (const job of JSON.parse(fs.readFileSync(jobs))) {
  const model = new Uint8Array(fs.readFileSync(job.model));
  const found = await answer(ort, model, job, { executionProviders: ["cpu"], intraOpNumThreads: 1, logSeverityLevel: 4 });
  fs.appendFileSync(answers, JSON.stringify({ name: job.name, version, ...found }) + "\n");
}
