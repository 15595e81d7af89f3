// What photos are sorted and filtered by: classes, kinds, splits, pairs of classes, the map's legend.
const MOST_PAIRS = 30; // of 42 classes there may be 1,700; the others are found by two filters

// Made once: localeCompare makes one anew for each of some 20,000 comparisons.
const collator = new Intl.Collator("ko", { numeric: true });
const SORTS = {
  score: (one, other) => other.score - one.score,
  label: (one, other) => collator.compare(one.label, other.label) || other.score - one.score,
  photo: (one, other) => collator.compare(one.photo, other.photo),
};

// Fills what can be filtered by, with the number of photos of each.
function renderChoices(name, called = (value) => value) {
  const counts = new Map();
  for (const value of photos.flatMap((photo) => valuesOf(photo, name))) counts.set(value, (counts.get(value) ?? 0) + 1);
  const order = name === "kind" || name === "split" ? [...counts.keys()] : review.classes.filter((each) => counts.has(each));
  filters.elements[name].append(...order.map((value) => element("option", `${called(value)} (${counts.get(value)})`, { value })));
  filters.elements[name].parentElement.hidden = !order.length;
}

function filterBy(values) {
  for (const [name, value] of Object.entries(values)) filters.elements[name].value = value;
  refresh();
}

function renderPairs() {
  const count = ([label, suggested]) => photos.filter((photo) => photo.label === label && photo.suggested === suggested).length;
  const pairs = review.pairs.map((pair) => [...pair, count(pair)]).filter(([, , number]) => number);
  const items = pairs.sort((one, other) => other[2] - one[2]).slice(0, MOST_PAIRS).map(([label, suggested, number]) => {
    const button = element("button", `${number} labelled ${label} that look${number === 1 ? "s" : ""} like ${suggested}`, { type: "button" });
    button.addEventListener("click", () => filterBy({ label, suggested }));
    const item = element("li");
    item.append(button);
    return item;
  });
  $("pairs").querySelector("ul").replaceChildren(...items);
  $("pairs").hidden = !items.length;
}

function renderLegend() {
  const name = $("colour").value;
  const colour = name === "label" ? classColour : kindColour;
  const values = [...new Set(photos.flatMap((photo) => valuesOf(photo, name)))].sort((one, other) => one.localeCompare(other, "ko"));
  $("legend").replaceChildren(
    ...values.map((value) => {
      const button = element("button", "", { type: "button" });
      const swatch = element("span", "", { className: "swatch" });
      swatch.style.background = colour({ label: value, kinds: [value] });
      button.append(swatch, element("span", name === "kind" ? kindName(value) : value));
      button.addEventListener("click", () => filterBy({ [name]: filters.elements[name].value === value ? "" : value }));
      const item = element("li");
      item.append(button);
      return item;
    }),
  );
}
