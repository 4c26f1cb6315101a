// Filters the board's rows by section, paper check, verdict and words; the state is kept in the address.
"use strict";
(() => {
  const form = document.getElementById("filter");
  const rows = [...document.querySelectorAll(".board tbody tr")];
  const count = document.getElementById("count");
  const beyond = document.getElementById("beyond"); // the folded ones: open where what is asked for is among them
  const fields = ["section", "paper", "verdict", "words"];
  form.hidden = false;

  const apply = () => {
    const want = Object.fromEntries(fields.map((name) => [name, form.elements[name].value.trim().toLowerCase()]));
    const words = want.words.split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = ["section", "paper", "verdict"].every(
        (name) => !want[name] || row.dataset[name].toLowerCase() === want[name]);
      const text = row.textContent.toLowerCase();
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    const asked = fields.some((name) => want[name]);
    if (beyond) beyond.open = asked && rows.some((row) => !row.hidden && beyond.contains(row));
    count.textContent = `${shown} of ${rows.length} statements`;
    const state = new URLSearchParams(fields.map((name) => [name, form.elements[name].value]).filter(([, v]) => v));
    history.replaceState(null, "", state.toString() ? `#${state}` : location.pathname + location.search);
  };

  const restore = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of fields) form.elements[name].value = state.get(name) ?? "";
    apply();
    if (state.size) show();
  };

  const show = () => { // the counts that ask stand far above the board
    const [first] = rows.filter((row) => !row.hidden);
    form.scrollIntoView();
    (first?.closest(".wide") ?? form.elements.words).focus({ preventScroll: true });
  };

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  addEventListener("hashchange", restore);
  for (const link of document.querySelectorAll(".counts a")) {
    link.addEventListener("click", () => link.hash === location.hash && show()); // a second time: the hash stays
  }
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      form.elements.words.focus();
    }
  });
  restore();
})();
