"use strict";
// Decisions as a journal, oldest first: the last one on a photo counts, undo takes the newest back.
// Entries are {photo, before, decision, label, time}; the parts of a review share them.
const DROP = "(drop)"; // the label by which `hansang relabel` moves a photo aside

class Journal {
  constructor(key) {
    this.key = key;
    this.kept = true; // false where the browser stores nothing
    this.load();
  }

  load() {
    this.entries = [];
    try {
      const found = JSON.parse(localStorage.getItem(this.key) ?? "[]");
      if (Array.isArray(found)) this.entries = found.filter((entry) => typeof entry?.photo === "string");
    } catch (error) {
      if (!(error instanceof SyntaxError)) this.kept = false;
    }
    this.latest = new Map(this.entries.map((entry) => [entry.photo, entry]));
  }

  save() {
    try {
      localStorage.setItem(this.key, JSON.stringify(this.entries));
    } catch {
      this.kept = false; // forbidden, or full
    }
  }

  add(entry) {
    this.entries.push(entry);
    this.latest.set(entry.photo, entry);
    this.save();
  }

  // Returns the entry that was taken back, if there was one.
  undo() {
    const last = this.entries.pop();
    if (!last) return undefined;
    const before = this.entries.findLast((entry) => entry.photo === last.photo);
    if (before) this.latest.set(last.photo, before);
    else this.latest.delete(last.photo);
    this.save();
    return last;
  }

  // Returns a table as `hansang relabel` reads it, of all decisions but some.
  csv(leftOut) {
    const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const rows = [...this.latest.values()]
      .filter((entry) => !leftOut.has(entry.decision))
      .map((entry) => [entry.photo, entry.label, entry.before, entry.decision, entry.time]);
    const header = ["photo", "label", "before", "decision", "time"];
    return [header, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  }
}
