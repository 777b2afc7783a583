"use strict";
// Texts of others (names of images, classes, models) become text nodes and attributes alone, never markup.

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const find = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Tables: a column of numbers is set flush right, and a click on a header sorts by its column.

const cellValue = (cell) => ({ text: cell.textContent.trim(), number: Number.parseFloat(cell.textContent) });
const isBlank = (value) => /^($|absent|not |too few )/.test(value.text);

function compareCells(one, other, descending) {
  const sign = descending ? -1 : 1;
  const blanks = Number(isBlank(one)) - Number(isBlank(other));
  if (blanks !== 0) return blanks; // at the end either way
  if (!Number.isNaN(one.number) && !Number.isNaN(other.number)) return sign * (one.number - other.number);
  return sign * one.text.localeCompare(other.text, undefined, { numeric: true });
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const values = [...body.rows].map((row) => cellValue(row.cells[column]));
    const numeric = values.some((value) => !isBlank(value)) && values.every((value) => isBlank(value) || !Number.isNaN(value.number));
    if (numeric) for (const row of [table.tHead.rows[0], ...body.rows]) row.cells[column].classList.add("number");
    if (column > 0 && !numeric && values.some((value) => value.text.length > 24)) for (const row of body.rows) row.cells[column].classList.add("text");
    const button = element("button", { type: "button" }, ...header.childNodes);
    header.replaceChildren(button);
    if (header.textContent.length <= 16) header.classList.add("short");
    button.addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric; // the highest score is looked for first
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [cellValue(row.cells[column]), row]);
      body.append(...rows.sort((one, other) => compareCells(one[0], other[0], descending)).map(([, row]) => row));
    });
  });
}

/** A field above a long table that leaves the rows which hold all words typed. */
function makeSearchable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 12) return;
  const field = element("input", { type: "search", class: "search", placeholder: "Search the rows", "aria-label": "Search the rows" });
  const texts = rows.map((row) => row.textContent.toLowerCase());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    rows.forEach((row, index) => { row.hidden = !words.every((word) => texts[index].includes(word)); });
  });
  table.parentElement.before(field);
}

for (const table of document.querySelectorAll(".table table:not(.ranking, .matrix)")) {
  makeSortable(table);
  makeSearchable(table);
}

// Differences: those with one variant as bars, and all of them as a matrix. Points.

const differences = find("difference-data") ? JSON.parse(find("difference-data").textContent) : null;
const TURNED = { better: "worse", worse: "better" };
const WORDS_FOR = { better: "better", worse: "worse", equal: "practically equal", undecided: "undecided" };
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

const asked = new Map((differences?.pairs ?? []).map((pair) => [`${pair.one} ${pair.other}`, pair]));

/** The difference of one variant above another, or undefined if it was not asked for. */
function differenceOf(one, other) {
  const straight = asked.get(`${one} ${other}`);
  if (straight) return straight;
  const pair = asked.get(`${other} ${one}`);
  if (!pair) return undefined;
  const [estimate, low, high] = pair.points.map((value) => -value);
  return { ...pair, one, other, points: [estimate, high, low], above: 1 - pair.above, outcome: TURNED[pair.outcome] ?? pair.outcome };
}

const inWords = ({ points }) => `${signed(points[0])} points (${signed(points[1])} to ${signed(points[2])})`;

function showPair(pair) {
  const names = [pair.one, pair.other].map((place) => differences.names[place]);
  const line = `${names[0]} against ${names[1]}: ${inWords(pair)}, ${WORDS_FOR[pair.outcome]}. A seed of the first is above one of the second in ${percent(pair.above)} of pairs.`;
  find("pair").replaceChildren(line);
  const places = data ? names.map((name) => data.models.indexOf(name)) : [-1];
  if (!places.includes(-1)) {
    const link = element("a", { href: "#pictures" }, "See their pictures");
    link.addEventListener("click", () => { choose("a", places[0]); choose("b", places[1]); });
    find("pair").append(" ", link, ".");
  }
  for (const cell of document.querySelectorAll("#matrix [aria-pressed]")) cell.setAttribute("aria-pressed", cell.dataset.pair === `${pair.one} ${pair.other}`);
}

function showForest() {
  const baseline = Number(find("baseline").value);
  const pairs = differences.names.map((_, place) => differenceOf(place, baseline)).filter(Boolean);
  pairs.sort((one, other) => other.points[0] - one.points[0]);
  const ends = pairs.flatMap((pair) => pair.points).concat(0);
  const least = Math.min(...ends), range = Math.max(...ends) - least || 1;
  const place = (value) => `${(2 + (96 * (value - least)) / range).toFixed(2)}%`;
  find("forest").replaceChildren(...pairs.map((pair) => {
    const [estimate, low, high] = pair.points;
    const zero = element("u"), line = element("i"), dot = element("b");
    zero.style.left = place(0);
    line.style.left = place(low);
    line.style.right = `calc(100% - ${place(high)})`;
    dot.style.left = place(estimate);
    const bar = element("span", { class: `range ${pair.outcome}`, "aria-hidden": "true" }, zero, line, dot);
    const words = element("span", { class: "words" }, inWords(pair), element("em", {}, WORDS_FOR[pair.outcome]));
    const button = element("button", { type: "button" }, element("span", { class: "who" }, differences.names[pair.one]), bar, words);
    button.addEventListener("click", () => showPair(pair));
    return element("li", {}, button);
  }));
  find("pair").textContent = "Click a row or a cell to show the pair.";
}

function showMatrix() {
  const { names } = differences;
  const largest = Math.max(...differences.pairs.map((pair) => Math.abs(pair.points[0]))) || 1;
  const head = element("tr", {}, element("td"), ...names.map((name, place) => element("th", { scope: "col", title: name }, String(place + 1))));
  const rows = names.map((name, one) => element("tr", {}, element("th", { scope: "row" }, `${one + 1} ${name}`), ...names.map((_, other) => {
    const pair = one === other ? undefined : differenceOf(one, other);
    if (!pair) return element("td");
    const button = element("button", {
      type: "button", class: pair.outcome, "data-pair": `${one} ${other}`, "aria-pressed": "false",
      "aria-label": `${name} against ${names[other]}: ${inWords(pair)}, ${WORDS_FOR[pair.outcome]}`, title: `${names[other]}: ${inWords(pair)}`,
    }, signed(pair.points[0]));
    button.style.setProperty("--strength", `${Math.round(12 + 55 * Math.sqrt(Math.abs(pair.points[0]) / largest))}%`);
    button.addEventListener("click", () => showPair(pair));
    return element("td", {}, button);
  })));
  find("matrix").append(element("thead", {}, head), element("tbody", {}, ...rows));
  find("matrix-frame").hidden = false;
}

function startDifferences() {
  const { names, pairs } = differences;
  const others = new Set(pairs.map((pair) => pair.other));
  const every = pairs.length > names.length - 1 || names.length === 2;
  const offered = every ? names.map((_, place) => place) : [...others];
  find("baseline").append(...offered.map((place) => element("option", { value: place }, names[place])));
  find("baseline").addEventListener("change", showForest);
  showForest();
  if (every && names.length > 2) showMatrix();
}

// Pictures

const data = find("data") ? JSON.parse(find("data").textContent) : null;
const chosen = { a: 0, b: 1, image: null, kind: "prediction" };
const WORDS = { input: "Input", truth: "Truth", prediction: "Prediction", overlay: "Overlay", error: "Error" };

/** One picture of an image: layers of embedded pictures that lie over each other. */
function picture(kind, image, model) {
  const layers = {
    input: () => [["photo", image.input]],
    truth: () => [["labels", image.truth]],
    prediction: () => [["labels", image.predictions[model]]],
    overlay: () => [["photo", image.input], ["labels half", image.predictions[model]]],
    error: () => [["photo", image.faded], ["labels", image.errors[model]]],
  }[kind]();
  const words = model === undefined ? WORDS[kind] : `${WORDS[kind]} of ${data.models[model]}`;
  const stack = element("div", { class: "stack", role: "img", "aria-label": `${words}, ${image.id}` });
  stack.style.setProperty("--ratio", image.width / image.height);
  for (const [name, source] of layers) stack.append(element("img", { class: name, src: source, alt: "", draggable: "false", decoding: "sync" }));
  return stack;
}

function caption(text, side, more = "") {
  const name = element("span", { class: "name" }, element("span", { class: "text", title: text }, text));
  if (side) name.prepend(element("span", { class: `badge ${side}` }, side.toUpperCase()));
  return element("figcaption", {}, name, more);
}

function legend(list, classes, withError) {
  const entries = classes.map((index) => data.classes[index]).concat(withError ? data.error : []);
  list.replaceChildren(...entries.map(({ name, color }) => {
    const box = element("i");
    box.style.background = color;
    return element("li", {}, box, name);
  }));
}

function card(image) {
  const { a, b } = chosen;
  const share = image.differing[a][b];
  const button = element("button", { type: "button", "aria-haspopup": "dialog" }, image.id);
  const models = [["a", a], ["b", b]];
  const figures = [
    element("figure", {}, picture("input", image), caption("Input")),
    element("figure", {}, picture("truth", image), caption("Truth")),
    ...models.map(([side, model]) => element("figure", {}, picture("prediction", image, model), caption(data.models[model], side))),
    ...models.map(([side, model]) => element("figure", {}, picture("error", image, model), caption(`${percent(image.wrong[model])} wrong`, side))),
  ];
  const words = element("span", { class: "share" }, element("b", {}, percent(share)), " of the pixels differ");
  const item = element("li", { class: "card" }, element("header", {}, button, words), element("div", { class: "pictures" }, ...figures));
  item.addEventListener("click", () => openViewer(image)); // the button's own click comes here as well
  return item;
}

const sorted = () => [...data.images].sort((one, other) => other.differing[chosen.a][chosen.b] - one.differing[chosen.a][chosen.b]);

function showGallery() {
  const images = sorted();
  find("gallery").replaceChildren(...images.map(card));
  const shares = [images[0], images[images.length - 1]].map((image) => percent(image.differing[chosen.a][chosen.b]));
  find("order").textContent =
    `${images.length} images, sorted by how much A and B differ: from ${shares[0]} to ${shares[1]} of the pixels. Click an image to compare A and B with a slider.`;
}

function choose(side, model) {
  const other = side === "a" ? "b" : "a";
  if (chosen[other] === model) chosen[other] = chosen[side]; // else both would be the same model
  chosen[side] = model;
  find("model-a").value = chosen.a;
  find("model-b").value = chosen.b;
  showGallery();
  if (find("viewer").open) showImage();
}

// The viewer

function openViewer(image) {
  chosen.image = image;
  setWipe(50);
  showImage();
  find("viewer").showModal();
  find("viewer").scrollTop = 0;
}

function step(by) {
  const images = sorted();
  chosen.image = images[(images.indexOf(chosen.image) + by + images.length) % images.length];
  showImage();
}

function setWipe(value) {
  find("wipe").value = value;
  find("wipe").setAttribute("aria-valuetext", `A on the left ${find("wipe").value} percent`);
  find("stage").style.setProperty("--wipe", `${find("wipe").value}%`);
}

function showImage() {
  const { a, b, image, kind } = chosen;
  find("viewer-title").textContent = image.id;
  find("viewer-shares").textContent =
    `A and B differ in ${percent(image.differing[a][b])} of the pixels. Wrong: A ${percent(image.wrong[a])}, B ${percent(image.wrong[b])}.`;
  find("viewer").style.setProperty("--ratio", image.width / image.height);
  for (const [side, model] of [["a", a], ["b", b]]) {
    find(`side-${side}`).replaceChildren(picture(kind, image, model));
    find(`tag-${side}`).textContent = data.models[model];
  }
  showStrip();
  legend(find("viewer-legend"), image.classes, kind === "error");
}

function showStrip() {
  const { image, kind } = chosen;
  const place = find("strip").scrollLeft;
  const focused = document.activeElement?.dataset?.pick;
  find("strip").replaceChildren(
    element("li", {}, element("figure", {}, picture("input", image), caption("Input"))),
    element("li", {}, element("figure", {}, picture("truth", image), caption("Truth"))),
    ...data.models.map((name, model) => {
      const buttons = ["a", "b"].map((side) => {
        const button = element("button", {
          type: "button", class: side, "data-pick": `${side}${model}`, "aria-pressed": chosen[side] === model,
          "aria-label": `${name} as ${side.toUpperCase()}`,
        }, side.toUpperCase());
        button.addEventListener("click", () => choose(side, model));
        return button;
      });
      const figure = element("figure", {}, picture(kind, image, model), caption(name, "", `${percent(image.wrong[model])} wrong`));
      return element("li", {}, figure, element("div", { class: "pick" }, ...buttons));
    }),
  );
  find("strip").scrollLeft = place;
  if (focused) find("strip").querySelector(`[data-pick="${focused}"]`)?.focus();
}

function followPointer(event) {
  const box = find("stage").getBoundingClientRect();
  setWipe(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
}

function startPictures() {
  for (const side of ["a", "b"]) {
    const select = find(`model-${side}`);
    select.append(...data.models.map((name, model) => element("option", { value: model }, name)));
    select.value = chosen[side];
    select.addEventListener("change", () => choose(side, Number(select.value)));
  }
  find("swap").addEventListener("click", () => choose("a", chosen.b));
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => find("viewer").close());
  find("viewer").addEventListener("click", (event) => {
    if (event.target === find("viewer")) find("viewer").close(); // beside it
  });
  // The card that opened it may have been made anew since, at another place.
  find("viewer").addEventListener("close", () => find("gallery").children[sorted().indexOf(chosen.image)].querySelector("button").focus());
  find("wipe").addEventListener("input", () => setWipe(find("wipe").value));
  find("stage").addEventListener("pointerdown", (event) => {
    find("stage").setPointerCapture(event.pointerId);
    followPointer(event);
  });
  find("stage").addEventListener("pointermove", (event) => {
    if (find("stage").hasPointerCapture(event.pointerId)) followPointer(event);
  });
  for (const radio of document.querySelectorAll('[name="kind"]')) {
    radio.checked = radio.value === chosen.kind; // some browsers bring back an earlier choice
    radio.addEventListener("change", () => {
      chosen.kind = radio.value;
      showImage();
    });
  }
  legend(find("legend"), data.shown, true);
  showGallery();
}

if (data) startPictures();
if (differences) startDifferences();
