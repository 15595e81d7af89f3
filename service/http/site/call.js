// Calls of the server: one request at a time of a few photos, tried again when it is told to wait.

const MOST_PHOTOS = 8;
const MOST_BYTES = 8 * 2 ** 20;
const TRIES = 5;

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options, token) {
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, {
        ...options,
        headers: token ? { authorization: `Bearer ${token}` } : {},
      });
    } catch {
      throw new Refusal(0, "The server cannot be reached.");
    }
    if (response.ok) return response.json();
    const waits = response.headers.get("retry-after");
    if (waits !== null && attempt < TRIES && [429, 503].includes(response.status)) {
      await new Promise((done) => setTimeout(done, 1000 * Math.max(Number(waits), 0.2)));
      continue;
    }
    let sentence = response.statusText;
    try {
      sentence = (await response.json()).detail;
    } catch {
      // A proxy's own page; its status must do.
    }
    throw new Refusal(response.status, sentence);
  }
}

export const models = async (token) => (await ask("/v1/models", {}, token)).models;

export const describe = (model, token) => ask(`/v1/models/${encodeURIComponent(model)}`, {}, token);

// Keeps a photo that was answered wrongly; `label` is empty where it is of no class, or not known.
export function reportMistake(model, photo, label, token) {
  const path = `/v1/models/${encodeURIComponent(model)}:reportMistake?label=${encodeURIComponent(label)}`;
  return ask(path, { method: "POST", body: photo }, token);
}

// Yields [first index, answer, milliseconds] for each request that the photos are split into.
export async function* classify(model, photos, token) {
  for (let at = 0; at < photos.length; ) {
    const form = new FormData();
    const first = at;
    let bytes = 0;
    do {
      form.append("photo", photos[at], `${at}`);
      bytes += photos[at].size;
      at += 1;
    } while (at < photos.length && at - first < MOST_PHOTOS && bytes + photos[at].size <= MOST_BYTES);
    const began = performance.now();
    const path = `/v1/models/${encodeURIComponent(model)}:classify?topK=5`;
    const answer = await ask(path, { method: "POST", body: form }, token);
    yield [first, answer, performance.now() - began];
  }
}
