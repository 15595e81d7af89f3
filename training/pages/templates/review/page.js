// The page: photos that may be wrong, filtered and sorted, one of them large, decided one by one.
// All text goes in as text, never as markup.
const $ = (id) => document.getElementById(id);
const BATCH = 120;
const KINDS = {
  label: ["doubtful label", "--red"],
  never_learned: ["never learned", "--teal"],
  outlier: ["outlier", "--purple"],
  near_copy: ["near copy", "--blue"],
  dark: ["dark", "--ink"],
  blurred: ["blurred", "--teal"],
  low_information: ["low information", "--orange"],
  odd_aspect: ["odd aspect", "--green"],
  unsure: ["unsure answer", "--orange"],
  random: ["kept at random", "--blue"],
  mistake: ["reported mistake", "--red"],
};
const WORDS = { labelled: "answered", suspicion: "worth" }; // of captured photos, which have no label yet
const SAID = { right: "right", drop: "no food", unsure: "not sure" };

function element(tag, text = "", properties = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, properties);
}

const kindName = (kind) => KINDS[kind]?.[0] ?? kind;
// A photo may be suspected of several things; of all else it has one.
const valuesOf = (photo, name) => (name === "kind" ? photo.kinds : [photo[name]].filter(Boolean));
const percent = (fraction) => `${(100 * fraction).toFixed(fraction > 0.995 && fraction < 1 ? 1 : 0)} %`;
const said = (entry) => SAID[entry.decision] ?? entry.label;

const review = JSON.parse($("review").textContent);
const pictures = JSON.parse($("pictures").textContent);
$("pictures").remove(); // they need not be kept twice
const photos = review.photos.map((photo, at) => ({ ...photo, picture: pictures[at] }));
const byName = new Map(photos.map((photo) => [photo.photo, photo]));
const journal = new Journal(review.key);
const filters = $("filters").querySelector("form");

const word = (name) => (review.captured ? WORDS[name] : name);
// What nobody was sure of moves nothing; nor does a photo without food that is not in the data yet.
const LEFT_OUT = new Set(review.captured ? ["unsure", "drop"] : ["unsure"]);

let region = null;
let shown = [];
let current = null;
let limit = BATCH;
let downloaded = journal.entries.length;

function matches(photo) {
  const wanted = filters.elements;
  const decided = journal.latest.has(photo.photo);
  const [x0, y0, x1, y1] = region ?? [];
  const [x, y] = photo.xy ?? [];
  return (
    ["label", "suggested", "kind", "split"].every((name) => !wanted[name].value || valuesOf(photo, name).includes(wanted[name].value)) &&
    photo.score >= Number(wanted.score.value) &&
    (!wanted.show.value || (wanted.show.value === "decided") === decided) &&
    (!region || (x >= x0 && x <= x1 && y >= y0 && y <= y1))
  );
}

// Chooses what is shown anew; a photo that is not shown any more gives way to the next one.
function refresh(next = current) {
  const place = Math.max(shown.indexOf(current), 0);
  shown = photos.filter(matches).sort(SORTS[filters.elements.sort.value]);
  current = shown.includes(next) ? next : (shown[Math.min(place, shown.length - 1)] ?? null);
  render();
}

function render() {
  renderProgress();
  renderPhoto();
  renderGrid();
  const byClass = $("colour").value === "label";
  map.draw({ shown: new Set(shown), current, region, colour: byClass ? classColour : kindColour });
  $("whole").hidden = !region;
}

function renderProgress() {
  const decided = photos.filter((photo) => journal.latest.has(photo.photo)).length;
  const text = `${decided} of ${photos.length} decided`;
  if ($("progress").textContent !== text) $("progress").textContent = text;
  $("meter").max = Math.max(photos.length, 1);
  $("meter").value = decided;
  $("undo").disabled = !journal.entries.length;
  $("download").disabled = ![...journal.latest.values()].some((entry) => !LEFT_OUT.has(entry.decision));
  $("unkept").hidden = journal.kept;
  $("count").textContent = shown.length === 1 ? "1 photo" : `${shown.length} photos`;
}

function renderPhoto() {
  $("looked").hidden = !current;
  $("nothing").hidden = Boolean(current);
  if (!current) return;
  const entry = journal.latest.get(current.photo);
  $("large").hidden = !current.picture;
  $("gone").hidden = Boolean(current.picture);
  if (current.picture) $("large").src = current.picture;
  $("large").alt = `${current.photo}, ${word("labelled")} ${current.label}`;
  $("name").textContent = current.photo;
  $("label").textContent = current.label;
  $("mark").textContent = entry ? `decided: ${said(entry)}` : "";
  const looksLike = current.suggested && current.suggested !== current.label ? `${review.captured ? "reported as" : "looks like"} ${current.suggested}` : "";
  const group = current.group ? `group ${current.group}` : "";
  const facts = [looksLike, ...current.kinds.map(kindName), `${word("suspicion")} ${current.score.toFixed(2)}`, current.split, group];
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  $("note").textContent = current.notes.join(" ");
  renderHeat();
  for (const [id, decision] of [["right", "right"], ["other", "other"], ["drop", "drop"], ["unsure", "unsure"]]) {
    $(id).classList.toggle("chosen", entry?.decision === decision);
  }
  $("likeliest").replaceChildren(...(current.likeliest ?? []).map(bar));
  const alike = (current.neighbours ?? []).map((name) => byName.get(name)).filter(Boolean);
  $("alike").hidden = !alike.length;
  $("neighbours").replaceChildren(...alike.map(neighbour));
}

// Darkens what does not speak for the class that a photo looks like.
function renderHeat() {
  const heat = current?.heat ?? "";
  $("lit").hidden = !heat || !current.picture;
  $("seen").textContent = current?.suggested ?? "";
  $("heat").hidden = $("lit").hidden || !$("why").checked;
  if ($("heat").hidden) return;
  const side = Math.sqrt(heat.length);
  $("heat").width = $("heat").height = side;
  const pen = $("heat").getContext("2d");
  [...heat].forEach((digit, at) => {
    pen.fillStyle = `rgb(0 0 0 / ${0.8 * (1 - digit / 9)})`;
    pen.fillRect(at % side, Math.floor(at / side), 1, 1);
  });
}

function bar([name, probability], place) {
  const button = element("button", "", { type: "button", title: `Its class is ${name}` });
  button.ariaKeyShortcuts = String(place + 1);
  const length = element("span", "", { className: "bar" });
  length.style.inlineSize = `${100 * probability}%`;
  button.append(length, element("kbd", String(place + 1)), element("span", name, { className: "class" }), element("span", percent(probability), { className: "percent" }));
  button.addEventListener("click", () => decideClass(name));
  const item = element("li");
  item.append(button);
  return item;
}

const thumbnail = (photo) =>
  photo.picture ? element("img", "", { src: photo.picture, alt: "", width: 128, height: 128 }) : element("span", "no readable photo", { className: "gone" });

function neighbour(photo) {
  const button = element("button", "", { type: "button", title: photo.photo });
  button.append(thumbnail(photo), element("span", photo.label));
  button.addEventListener("click", () => open(photo));
  const item = element("li");
  item.append(button);
  return item;
}

const cells = new Map();

function cell(photo) {
  if (!cells.has(photo)) {
    const item = element("li", "", { role: "option", title: photo.photo });
    item.append(thumbnail(photo), element("strong", photo.label), element("span", "", { className: "decided" }));
    item.addEventListener("click", () => {
      open(photo);
      if (innerWidth < 720) $("photo").scrollIntoView();
    });
    cells.set(photo, item);
  }
  const item = cells.get(photo);
  const entry = journal.latest.get(photo.photo);
  item.ariaSelected = String(photo === current);
  item.tabIndex = photo === current ? 0 : -1;
  const suggested = photo.suggested && photo.suggested !== photo.label ? `${photo.suggested}?` : kindName(photo.kinds[0]);
  item.lastChild.textContent = entry ? `✓ ${said(entry)}` : suggested;
  item.classList.toggle("done", Boolean(entry));
  return item;
}

function renderGrid() {
  const inGrid = $("grid").contains(document.activeElement);
  const place = shown.indexOf(current);
  if (place >= limit) limit = place + BATCH;
  $("grid").replaceChildren(...shown.slice(0, limit).map(cell));
  $("more").hidden = shown.length <= limit;
  // Observed anew it tells where it is, also where it was in sight before.
  endless.unobserve($("more"));
  endless.observe($("more"));
  if (inGrid && current) cells.get(current).focus();
}

// Shows a photo large, also one that the filters leave out.
function open(photo) {
  closeSearch();
  current = photo;
  render();
}

function step(by) {
  if (!shown.length) return;
  const place = Math.min(Math.max(shown.indexOf(current) + by, 0), shown.length - 1);
  open(shown[place]);
  if ($("grid").contains(document.activeElement)) cells.get(current).scrollIntoView({ block: "nearest" });
}

function columns() {
  const tops = [...$("grid").children].map((item) => item.offsetTop);
  return Math.max(tops.filter((top) => top === tops[0]).length, 1);
}

function decide(decision, label) {
  if (!current) return;
  const { photo, label: before } = current;
  journal.add({ photo, before, decision, label, time: new Date().toISOString() });
  $("said").textContent = `${said({ decision, label })}: ${photo}`;
  closeSearch();
  const after = shown[shown.indexOf(current) + 1];
  refresh(after ?? current);
}

const decideClass = (name) => (name === current.label ? decide("right", name) : decide("other", name));

function undo() {
  const entry = journal.undo();
  if (!entry) return;
  $("said").textContent = `Taken back: ${entry.photo}`;
  closeSearch();
  refresh(byName.get(entry.photo) ?? current);
}

function openSearch() {
  $("choose").hidden = false;
  $("other").ariaExpanded = "true";
  search.open();
}

function closeSearch() {
  const inside = $("choose").contains(document.activeElement);
  $("choose").hidden = true;
  $("other").ariaExpanded = "false";
  if (inside) $("other").focus();
}

function download() {
  // The mark at the start tells spreadsheets that it is UTF-8.
  const place = URL.createObjectURL(new Blob(["\ufeff", journal.csv(LEFT_OUT)], { type: "text/csv" }));
  element("a", "", { href: place, download: "corrections.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(place), 1000);
  downloaded = journal.entries.length;
}

const hue = new Map(review.classes.map((name, at) => [name, hues(review.classes.length)[at]]));
const dark = matchMedia("(prefers-color-scheme: dark)");
const classColour = (photo) => `hsl(${hue.get(photo.label) ?? 0} 65% ${dark.matches ? 65 : 42}%)`;
const kindColour = (photo) => getComputedStyle(document.documentElement).getPropertyValue(KINDS[photo.kinds[0]]?.[1] ?? "--muted");

const endless = new IntersectionObserver(([seen]) => seen.isIntersecting && $("more").click(), { rootMargin: "600px" });
const search = new ClassSearch($("search"), $("found"), review.classes, { onChoose: decideClass, onLeave: closeSearch });
const map = new PhotoMap($("map").querySelector("canvas"), photos, {
  onRegion: (found) => { region = found; refresh(); },
  onPick: open,
});

$("right").addEventListener("click", COMMANDS.r);
$("drop").addEventListener("click", COMMANDS.n);
$("unsure").addEventListener("click", COMMANDS.s);
$("other").addEventListener("click", () => ($("choose").hidden ? openSearch() : closeSearch()));
$("undo").addEventListener("click", undo);
$("download").addEventListener("click", download);
$("why").addEventListener("change", renderHeat);
$("more").addEventListener("click", () => { limit += BATCH; renderGrid(); });
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("change", () => { limit = BATCH; refresh(); });
filters.addEventListener("reset", () => setTimeout(() => { region = null; refresh(); })); // once it is reset
$("whole").addEventListener("click", () => { region = null; refresh(); });
$("colour").addEventListener("change", () => { renderLegend(); render(); });
$("map").addEventListener("toggle", () => map.draw());
new ResizeObserver(() => map.draw()).observe(map.canvas);
dark.addEventListener("change", () => { renderLegend(); render(); });
// Another part of the review, in another tab, adds to the same journal.
addEventListener("storage", (event) => {
  if (event.key !== journal.key) return;
  journal.load();
  refresh();
});
addEventListener("beforeunload", (event) => {
  if (!journal.kept && journal.entries.length !== downloaded) event.preventDefault();
});

renderChoices("label");
renderChoices("suggested");
renderChoices("kind", kindName);
renderChoices("split");
renderPairs();
renderLegend();
$("map").hidden = !map.photos.length;
$("filters").open = innerWidth >= 720;
refresh();
