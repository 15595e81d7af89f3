// Ask a server what is on photos, over gRPC:
//
//   npm install && node classify.js localhost:8500 photo.jpg…
//
// A token goes in HANSANG_TOKEN. What the server refuses ends with its sentence and exit code 1.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const proto = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "proto");
const definition = loader.loadSync("hansang/v1/classifier.proto", {
  includeDirs: [proto],
  defaults: true,
  longs: Number,
});
const { Classifier } = grpc.loadPackageDefinition(definition).hansang.v1;

const [address, ...photos] = process.argv.slice(2);
const client = new Classifier(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
if (process.env.HANSANG_TOKEN) metadata.set("authorization", `Bearer ${process.env.HANSANG_TOKEN}`);

// A call without a deadline would wait for ever.
const deadline = new Date(Date.now() + 10_000);
const images = photos.map((photo) => readFileSync(photo));
client.classify({ images, topK: 3 }, metadata, { deadline }, (error, answer) => {
  client.close();
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
    return;
  }
  answer.results.forEach((result, at) => {
    const classes = result.classes.map(({ label, probability }) => `${label} ${(100 * probability).toFixed(1)}%`);
    console.log(`${photos[at]}: ${result.error ? result.error.message : classes.join(", ")}`);
  });
  console.log(`model ${answer.model}, version ${answer.modelVersion}`);
});
