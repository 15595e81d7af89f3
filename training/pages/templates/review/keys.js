// Keys: a letter or a number for each decision, arrows for the next photo.
const COMMANDS = {
  r: () => decide("right", current?.label),
  n: () => decide("drop", DROP),
  s: () => decide("unsure", ""),
  o: openSearch,
  u: undo,
  w: () => $("why").click(),
  ...Object.fromEntries([0, 1, 2, 3, 4].map((at) => [at + 1, () => current?.likeliest?.[at] && decideClass(current.likeliest[at][0])])),
};
const MOVES = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns(), Home: () => -shown.length, End: () => shown.length };

document.addEventListener("keydown", (event) => {
  if (event.target.matches?.("input:not([type=checkbox]), select, summary ~ canvas")) return;
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key in MOVES) {
    const inGrid = $("grid").contains(event.target);
    if (!inGrid && !["ArrowLeft", "ArrowRight"].includes(event.key)) return; // it scrolls
    step(MOVES[event.key]());
  } else if ($("keys").checked) {
    // A Korean keyboard gives a consonant where the key says R.
    const key = /^[\x21-\x7e]$/.test(event.key) ? event.key.toLowerCase() : event.code.replace(/^(Key|Digit)/, "").toLowerCase();
    if (!Object.hasOwn(COMMANDS, key)) return;
    COMMANDS[key]();
  } else return;
  event.preventDefault();
});
