// The page: takes photos, shows what they are. All text goes in as text, never as markup.
import { classify, describe, models, Refusal, reportMistake } from "./call.js";

const THUMBNAIL_PX = 320;
const USUAL = 0.5; // The threshold of a model that has none.
const KINDS = ["image/jpeg", "image/png", "image/webp"];
const $ = (id) => document.getElementById(id);
const percent = (fraction) => `${(100 * fraction).toFixed(fraction > 0.995 ? 1 : 0)} %`;

let shown = []; // {name, place, item, classes, error, served, ms}
let working = Promise.resolve();
let reportable = []; // Labels to choose from, where the server takes reports of mistakes.
let threshold = null; // What a person has set, as a fraction.
let hasOwn = false; // Whether the model has a threshold: until a person sets one, it says what is not sure.

function element(kind, text = "", properties = {}) {
  const made = document.createElement(kind);
  made.textContent = text;
  return Object.assign(made, properties);
}

async function start() {
  try {
    const found = await models($("token").value);
    const names = [...new Set(found.map((model) => model.name))];
    $("model").replaceChildren(...names.map((name) => element("option", name, { value: name })));
    $("model-row").hidden = names.length < 2;
    if (names.length) await describeModel();
    else $("served").textContent = "No model is served yet.";
  } catch (error) {
    complain(error, $("served"));
  }
}

async function describeModel() {
  const model = await describe($("model").value, $("token").value);
  const accuracy = model.valTop1 === undefined ? "" : `, right for ${percent(model.valTop1)} of its validation photos`;
  $("served").textContent = `${model.name} version ${model.version}: ${model.labels.length} classes${accuracy}`;
  reportable = model.takesReports ? model.labels : [];
  hasOwn = model.minConfidence !== undefined;
  showThreshold(threshold ?? model.minConfidence ?? USUAL);
  $("meaning").textContent = model.properties.temperature
    ? "A confidence is calibrated on validation photos: of a hundred answers with 80 %, about eighty are right, on photos like those."
    : "This model's confidence was not calibrated: a higher one is likelier to be right, and no more than that.";
}

function complain(error, place) {
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) {
    $("token-row").hidden = false;
    $("token").focus();
  }
  place.textContent = error.message;
}

async function take(files) {
  const photos = [...files].filter((file) => KINDS.includes(file.type));
  const strange = files.length - photos.length;
  if (!photos.length) {
    $("progress").textContent = files.length ? "These are no JPEG, PNG or WebP photos." : "";
    return;
  }
  $("answers").hidden = false;
  const entries = photos.map((photo) => {
    const entry = { name: photo.name, place: shown.length, classes: [], item: element("li") };
    entry.item.append(element("p", `${photo.name}: waiting`));
    shown.push(entry);
    $("gallery").append(entry.item);
    return entry;
  });
  $("gallery").classList.toggle("one", shown.length === 1);
  let done = 0;
  $("progress").textContent = `Looking at ${photos.length} photo${photos.length > 1 ? "s" : ""}…`;
  try {
    for await (const [first, answer, ms] of classify($("model").value, photos, $("token").value)) {
      for (const [offset, result] of answer.results.entries()) {
        const entry = entries[first + offset];
        Object.assign(entry, {
          classes: result.classes,
          belowThreshold: result.belowThreshold,
          error: result.error?.message,
          photo: photos[first + offset],
          model: answer.model,
          served: `${answer.model} version ${answer.modelVersion}`,
          ms: ms / answer.results.length,
          picture: await thumbnail(photos[first + offset]),
        });
        draw(entry);
      }
      done += answer.results.length;
      $("progress").textContent = `${done} of ${photos.length} photos`;
    }
    const left = strange ? `; ${strange} files are no JPEG, PNG or WebP` : "";
    $("progress").textContent = `${done} of ${photos.length} photos${left}`;
  } catch (error) {
    complain(error, $("progress"));
    for (const entry of entries.slice(done)) entry.item.remove();
    shown = shown.filter((entry) => entry.item.isConnected);
  }
  sort();
}

// The browser holds small pictures only, however many large photos are given.
async function thumbnail(photo) {
  const canvas = element("canvas", "", { className: "picture" });
  try {
    const whole = await createImageBitmap(photo, { imageOrientation: "from-image" });
    const scale = Math.min(1, THUMBNAIL_PX / Math.min(whole.width, whole.height));
    canvas.width = Math.round(whole.width * scale);
    canvas.height = Math.round(whole.height * scale);
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    whole.close();
  } catch {
    canvas.width = canvas.height = 1; // The server says what is wrong with it.
  }
  return canvas;
}

function draw(entry) {
  const { classes, error, item } = entry;
  const parts = [entry.picture];
  const below = threshold === null && hasOwn ? entry.belowThreshold : classes[0]?.probability < (threshold ?? USUAL);
  const unsure = classes.length && below;
  const said = error ?? (unsure ? "Not sure" : classes[0].label);
  parts.push(element("h2", said, { className: error ? "error" : unsure ? "unsure" : "" }));
  entry.picture.setAttribute("role", "img");
  entry.picture.setAttribute("aria-label", `${entry.name}: ${said}`);
  if (classes.length) {
    const list = element("ul", "", { className: "bars" });
    for (const { label, probability } of classes) {
      const row = element("li");
      const bar = element("span", "", { className: "bar" });
      bar.style.inlineSize = `${100 * probability}%`;
      bar.setAttribute("aria-hidden", "true");
      row.append(element("span", label, { className: "label" }), element("span", percent(probability), { className: "percent" }), bar);
      list.append(row);
    }
    parts.push(list);
  }
  if (classes.length && reportable.length) parts.push(entry.mistake ??= mistake(entry));
  parts.push(element("p", `${entry.name} · ${entry.served} · ${Math.round(entry.ms)} ms`, { className: "from" }));
  item.replaceChildren(...parts);
}

// A button that asks what it is instead, and sends the photo to those who run the server.
function mistake(entry) {
  const box = element("details", "", { className: "mistake" });
  const choice = element("select", "", { ariaLabel: `What ${entry.name} is` });
  choice.append(
    element("option", "I do not know, or none of these", { value: "" }),
    ...reportable.map((label) => element("option", label, { value: label })),
  );
  const send = element("button", "Send the photo", { type: "button" });
  const said = element("p", "Sending it keeps the photo on the server, for a person to look at.", { role: "status" });
  send.addEventListener("click", async () => {
    send.disabled = true;
    try {
      await reportMistake(entry.model, entry.photo, choice.value, $("token").value);
      said.textContent = "Kept. Thank you.";
      choice.remove();
      send.remove();
    } catch (error) {
      send.disabled = false;
      complain(error, said);
    }
  });
  box.append(element("summary", "This is wrong"), choice, send, said);
  return box;
}

const ORDERS = {
  order: (a, b) => a.place - b.place,
  name: (a, b) => a.name.localeCompare(b.name),
  label: (a, b) => (a.classes[0]?.label ?? "").localeCompare(b.classes[0]?.label ?? "") || ORDERS.most(a, b),
  most: (a, b) => (b.classes[0]?.probability ?? -1) - (a.classes[0]?.probability ?? -1),
  least: (a, b) => -ORDERS.most(a, b),
};

function sort() {
  $("gallery").append(...shown.toSorted(ORDERS[$("sort").value]).map((entry) => entry.item));
}

// One after the other, so that what is dropped meanwhile is not mixed in.
function queue(files) {
  const now = [...files];
  working = working.then(() => take(now));
}

for (const id of ["files", "camera"]) {
  $(id).addEventListener("change", () => {
    queue($(id).files);
    $(id).value = ""; // The same photo may be chosen again.
  });
}
$("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  queue(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => queue(event.clipboardData.files));
$("ask").addEventListener("submit", (event) => event.preventDefault());
$("model").addEventListener("change", () => describeModel().catch((error) => complain(error, $("served"))));
$("token").addEventListener("change", () => (working = working.then(start)));
$("sort").addEventListener("change", sort);
function showThreshold(fraction) {
  $("threshold").value = 100 * fraction;
  $("threshold-shown").value = percent(fraction);
}

$("threshold").addEventListener("input", () => {
  threshold = $("threshold").value / 100;
  showThreshold(threshold);
  for (const entry of shown) if (entry.picture) draw(entry);
});
$("clear").addEventListener("click", () => {
  shown = [];
  $("gallery").replaceChildren();
  $("answers").hidden = true;
  $("progress").textContent = "";
  $("files").focus();
});
// Photos that come meanwhile wait until the model is known.
working = start();
