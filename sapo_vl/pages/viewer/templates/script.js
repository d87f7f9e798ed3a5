"use strict";
// Heat, keys, and in a single file also steps, filters and sorts. Text from models and data sets is
// set through textContent alone.

const single = document.body.classList.contains("single");
const page = JSON.parse(document.getElementById("heats").textContent);
const heatMenu = document.getElementById("heat");
const legend = document.getElementById("legend");
const readout = document.getElementById("readout");

// ---- token heat

const loading = new WeakMap(); // a side of a card: the promise of its tokens

function tokensOf(side) {
  if (!loading.has(side)) {
    const inside = side.querySelector(".token-data");
    loading.set(side, inside ? Promise.resolve(JSON.parse(inside.textContent)) : fetched(side));
  }
  return loading.get(side);
}

async function fetched(side) {
  const answer = await fetch(side.dataset.tokens, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function colour(span, heat, value) {
  span.classList.remove("hot", "above", "below", "broken", "unknown");
  span.style.removeProperty("--a");
  if (value === null || value === undefined) return void span.classList.add("unknown");
  if (typeof value === "string") return void span.classList.add("broken"); // nan, inf
  const size = heat.kind === "gate" ? 1 - value : Math.abs(value);
  const share = Math.sqrt(Math.min(1, Math.max(0, size / page.scales[heat.name])));
  const name = heat.kind !== "signed" ? "hot" : value > 0 ? "above" : "below";
  span.classList.add(name);
  span.style.setProperty("--a", (85 * share).toFixed(1));
}

function fill(box, data, heat) {
  const values = data[heat.name];
  if (box.childElementCount === 0) {
    for (let i = 0; i < data.ids.length; i++) {
      const span = document.createElement("span");
      span.className = "t";
      const text = data.text[i];
      const mark = text === "" ? "\u2036" : text.trim() === "" ? text.replaceAll("\n", "\u21b5\n") : text;
      if (text === "") span.classList.add("mark"); // a part of the next token's character
      span.textContent = mark;
      span.tabIndex = i === 0 ? 0 : -1;
      span.dataset.i = i;
      box.append(span);
    }
    if (data.ids.length < data.count) {
      const note = document.createElement("p");
      note.className = "note";
      note.textContent = `${data.count - data.ids.length} more tokens${single ? "" : " on the group's own page"}.`;
      box.append(note);
    }
    box.data = data;
  }
  for (const span of box.querySelectorAll(".t")) {
    const value = values === null ? null : values[span.dataset.i];
    colour(span, heat, value);
    span.title = values === null ? `${heat.label}: no value (no update used the response, or its file has none)` : `${heat.label} ${number(value)}`;
  }
}

async function show(side) {
  const heat = page.heats.find((one) => one.name === heatMenu.value);
  const responses = side.querySelectorAll(".response");
  let data = null;
  if (heat) {
    try {
      data = await tokensOf(side);
    } catch (error) {
      loading.delete(side);
      data = null;
      fault(side, `tokens can't be loaded: ${error.message}`);
    }
  }
  if (heat && heat.name !== heatMenu.value) return; // changed meanwhile
  responses.forEach((response, i) => {
    const box = response.querySelector(".tokens");
    if (data) fill(box, data[i], heat);
    box.hidden = !data;
    response.querySelector(".text").hidden = Boolean(data);
  });
  side.classList.toggle("heated", Boolean(data));
}

function fault(side, text) {
  const line = document.createElement("p");
  line.className = "fault";
  line.textContent = text;
  side.prepend(line);
}

function drawLegend() {
  const heat = page.heats.find((one) => one.name === heatMenu.value);
  legend.replaceChildren();
  legend.hidden = !heat;
  if (!heat) return;
  const scale = page.scales[heat.name];
  const shares = heat.kind === "signed" ? [-1, -0.25, 0, 0.25, 1] : [0, 0.25, 0.5, 1];
  const name = document.createElement("span");
  name.textContent = `${heat.label}: ${heat.about}`;
  legend.append(name);
  for (const share of shares) {
    const value = heat.kind === "gate" ? 1 - share : share * scale;
    const swatch = document.createElement("span");
    swatch.className = "t";
    swatch.textContent = number(value) + (heat.name === "entropy" && share === 1 ? " or more" : "");
    colour(swatch, heat, value);
    legend.append(swatch);
  }
  const grey = document.createElement("span");
  grey.className = "t unknown";
  grey.textContent = "no value";
  legend.append(grey);
}

const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) if (entry.isIntersecting) void show(entry.target);
  },
  { rootMargin: "600px" },
);
const sides = [...document.querySelectorAll(".side")];

function setHeat(name) {
  heatMenu.value = name;
  if (heatMenu.selectedIndex < 0) heatMenu.value = "";
  try {
    sessionStorage.setItem("sapo-vl heat", heatMenu.value);
  } catch {} // a file's page may have no storage
  readout.hidden = true;
  drawLegend();
  near.disconnect(); // observing anew reports what is in view
  for (const side of sides) {
    if (heatMenu.value === "") void show(side);
    else near.observe(side);
  }
}

function cycleHeat() {
  const names = ["", ...page.heats.filter((heat) => !heat.missing).map((heat) => heat.name)];
  setHeat(names[(names.indexOf(heatMenu.value) + 1) % names.length]);
}

function number(value) {
  if (value === null || value === undefined) return "no value";
  if (typeof value === "string") return value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 0.001 && size < 10000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  return text.replace("-", "\u2212");
}

function readToken(span) {
  const data = span.parentElement.data;
  const i = Number(span.dataset.i);
  const at = (name) => (data[name] === null ? null : data[name][i]);
  const parts = [
    ["token", `${i + 1} of ${data.count}`],
    ["id", data.ids[i]],
    ["gate", number(at("gate"))],
    ["log ratio", number(at("ratio"))],
    ["difference", number(at("mismatch"))],
    ["entropy", number(at("entropy"))],
    ["log mu", number(at("mu"))],
    ["log pi_old", number(at("old"))],
  ];
  readout.replaceChildren();
  const text = document.createElement("b");
  text.textContent = data.text[i] === "" ? "(part of a character)" : JSON.stringify(data.text[i]);
  readout.append(text);
  for (const [name, value] of parts) {
    const item = document.createElement("span");
    const label = document.createElement("i");
    label.textContent = name;
    item.append(label, ` ${value}`);
    readout.append(item);
  }
  readout.hidden = false;
}

document.addEventListener("pointerover", (event) => {
  if (event.target.matches?.(".tokens .t")) readToken(event.target);
});
document.addEventListener("focusin", (event) => {
  if (event.target.matches?.(".tokens .t")) readToken(event.target);
});
document.addEventListener("click", (event) => {
  const span = event.target.closest?.(".tokens .t");
  if (span) {
    span.tabIndex = 0;
    span.focus({ preventScroll: true });
  } else if (!event.target.closest?.("#readout")) {
    readout.hidden = true;
  }
});

// ---- keys

let current = null;
const cards = () => [...document.querySelectorAll(".card")].filter((card) => card.offsetParent);

function move(by) {
  const shown = cards();
  if (shown.length === 0) return;
  const place = shown.indexOf(current);
  const next = place < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.min(shown.length - 1, Math.max(0, place + by));
  choose(shown[next]);
}

function choose(card) {
  current?.classList.remove("current");
  current = card;
  card.classList.add("current");
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "start" });
}

function follow(selector, inside = document) {
  inside?.querySelector(selector)?.click();
}

const help = document.getElementById("help");
const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  n: () => follow("a[data-nav=next]"),
  p: () => follow("a[data-nav=previous]"),
  h: cycleHeat,
  H: () => setHeat(""),
  m: () => document.body.classList.toggle("source"),
  o: () => follow("a.own", current),
  "/": () => document.querySelector("#filters input[type=search]")?.focus(),
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (target.matches("input, select, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (target.matches(".tokens .t") && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const next = event.key === "ArrowLeft" ? target.previousElementSibling : target.nextElementSibling;
    if (next?.matches(".t")) {
      next.tabIndex = 0;
      next.focus();
    }
    event.preventDefault();
  } else if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  } else if (event.key === "Escape") {
    readout.hidden = true;
  }
});
document.getElementById("help-button").addEventListener("click", () => help.showModal());
heatMenu.addEventListener("change", () => setHeat(heatMenu.value));

// ---- filters

const filters = document.getElementById("filters");
if (filters && !single) {
  for (const menu of filters.querySelectorAll("select")) {
    menu.addEventListener("change", () => filters.requestSubmit());
  }
}

if (single) {
  const sections = [...document.querySelectorAll("section.step")];
  const shown = document.getElementById("shown");
  let problem = null; // the id whose groups of all steps are shown

  const field = (name) => filters.elements.namedItem(name).value;
  const matches = (card) =>
    problem !== null
      ? card.dataset.id === problem
      : (field("task") === "" || card.dataset.task === field("task")) &&
        (field("show") === "" || card.dataset.flags.split(" ").includes(field("show"))) &&
        field("search").toLowerCase().split(/\s+/).every((word) => card.dataset.search.includes(word));

  const arrange = () => {
    const step = location.hash.match(/^#(?:step|group)-(\d+)/)?.[1] ?? sections.at(-1)?.dataset.step;
    const sort = field("sort");
    let count = 0;
    for (const section of sections) {
      section.hidden = problem === null && section.dataset.step !== step;
      const own = [...section.querySelectorAll(".card")];
      const key = (card) => (sort === "" ? Number(card.dataset.place) : Number(card.getAttribute(`data-sort-${sort.replaceAll("_", "-")}`)));
      own.sort((a, b) => key(a) - key(b) || a.dataset.place - b.dataset.place);
      section.append(...own);
      for (const card of own) {
        card.hidden = !matches(card);
        if (!section.hidden && !card.hidden) count += 1;
      }
      section.querySelector(".figures").hidden = problem !== null && !own.some((card) => !card.hidden);
    }
    const place = sections.findIndex((section) => section.dataset.step === step);
    document.getElementById("step-name").textContent = `step ${step}`;
    for (const [name, other] of [["previous", place - 1], ["next", place + 1]]) {
      const link = document.querySelector(`a[data-nav=${name}]`);
      link.href = sections[other] ? `#step-${sections[other].dataset.step}` : `#step-${step}`;
    }
    for (const mark of document.querySelectorAll(".curve a")) mark.classList.toggle("here", mark.dataset.step === step);
    shown.textContent = problem !== null ? `${problem}: ${count} groups over the steps of this file. Esc: back to the step.` : count === 0 ? "No group of this step matches." : "";
    setHeat(heatMenu.value);
  };

  sections.forEach((section) => section.querySelectorAll(".card").forEach((card, i) => (card.dataset.place = i)));
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", arrange);
  window.addEventListener("hashchange", () => {
    problem = null;
    arrange();
    const target = document.getElementById(location.hash.slice(1));
    if (target?.matches(".card")) choose(target);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.over");
    if (!link) return;
    event.preventDefault();
    problem = link.closest(".card").dataset.id;
    arrange();
    window.scrollTo(0, 0);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && problem !== null) {
      problem = null;
      arrange();
    }
  });
  arrange();
}

let remembered = "";
try {
  remembered = sessionStorage.getItem("sapo-vl heat") ?? "";
} catch {}
const known = page.heats.find((heat) => heat.name === remembered && !heat.missing);
if (known) setHeat(known.name);
