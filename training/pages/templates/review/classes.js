// Choosing one of many classes: type a part of a name, or the first consonants of a Korean one.
const plain = (text) => text.normalize("NFC").toLowerCase().replaceAll(/\s+/g, "");
// A syllable starts with its first consonant; a consonant typed alone becomes the same letter.
const initials = (text) => [...plain(text)].map((sign) => sign.normalize("NFKD")[0]).join("");

function matching(classes, typed) {
  const query = plain(typed);
  const consonants = /^[\u3131-\u314e]+$/.test(query) ? initials(query) : null;
  const fits = (name) => plain(name).includes(query) || (consonants && initials(name).includes(consonants));
  const starts = (name) => plain(name).startsWith(query);
  return classes.filter(fits).sort((one, other) => starts(other) - starts(one));
}

// Fills a list under an input; `onChoose(name)` is told what is chosen, `onLeave()` that nothing was.
class ClassSearch {
  constructor(input, list, classes, { onChoose, onLeave }) {
    Object.assign(this, { input, list, classes, onChoose });
    input.addEventListener("input", () => this.show(0));
    input.addEventListener("keydown", (event) => {
      if (event.isComposing) return; // Enter ends a syllable that is being typed
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) this.show((this.active + step + this.found.length) % Math.max(this.found.length, 1));
      else if (event.key === "Enter" && this.found.length) onChoose(this.found[this.active]);
      else if (event.key === "Escape") onLeave();
      else return;
      event.preventDefault();
    });
  }

  open() {
    this.input.value = "";
    this.show(0);
    this.input.focus();
  }

  show(active) {
    this.found = matching(this.classes, this.input.value);
    this.active = active;
    this.list.replaceChildren(
      ...this.found.map((name, place) => {
        const item = element("li", name, { id: `class-${place}`, role: "option" });
        item.ariaSelected = String(place === active);
        item.addEventListener("click", () => this.onChoose(name));
        return item;
      }),
    );
    if (!this.found.length) this.list.append(element("li", "no such class", { className: "muted" }));
    const item = this.found.length ? this.list.children[active] : null;
    item?.scrollIntoView({ block: "nearest" });
    if (item) this.input.setAttribute("aria-activedescendant", item.id);
    else this.input.removeAttribute("aria-activedescendant");
  }
}
