// Shows what the metadata of an image says. Values are text nodes, never HTML.

import { make } from "./dom.js";
import { stagesOf } from "./metadata-progress.js";
import {
  answerOf, copyText, evidenceOf, filterGroups, groupsOf, notesOf, qualityOf, sectionsOf, textOf, verdictOf,
} from "./metadata-view.js";

const LONG = 600;

const rowsText = (rows) => rows.map(([name, text]) => `${name}: ${text}`).join("\n");

function copyButton(text, label, name = "Copy") {
  const said = make("span", { role: "status", className: "note" });
  const copy = async () => {
    said.textContent = (await copyText(text())) ? "Copied" : "Not copied: this browser does not allow it here.";
  };
  return [said, make("button", { type: "button", textContent: name, onclick: copy, ...(label && { "aria-label": label }) })];
}

function valueOf(name, text) {
  const value = make("dd", {}, text.slice(0, LONG));
  if (text.length <= LONG) return value;
  const more = `Show all ${text.length.toLocaleString("en")} characters`;
  const button = make("button", { type: "button", textContent: more, "aria-label": `${more} of ${name}`, "aria-expanded": "false" });
  button.onclick = () => {
    const open = button.getAttribute("aria-expanded") === "false";
    const action = open ? "Show less" : more;
    button.setAttribute("aria-expanded", String(open));
    button.setAttribute("aria-label", `${action} of ${name}`);
    button.textContent = action;
    value.firstChild.data = open ? text : `${text.slice(0, LONG)}…`;
  };
  value.firstChild.data += "…";
  value.append(button);
  return value;
}

const rowsOf = (rows) => make("dl", { className: "rows" }, ...rows.flatMap(([name, text]) => [make("dt", {}, name), valueOf(name, text)]));
const list = (items) => make("ul", { className: "lines" }, ...items.map((one) => make("li", {}, make("bdi", {}, one))));

// Content that is made when it is opened: a photograph can have 10,000 tags.
function details(title, content) {
  const element = make("details", {}, make("summary", {}, title));
  element.ontoggle = () => {
    if (element.open && element.childElementCount === 1) element.append(...content());
  };
  return element;
}

function filterable(groups) {
  const found = make("div", { className: "found" });
  const said = make("p", { role: "status", className: "note" });
  const input = make("input", { type: "search", id: "metadata-filter", autocomplete: "off" });
  input.oninput = () => {
    const wanted = input.value.trim();
    const { shown, total, more } = filterGroups(groups, wanted);
    said.textContent = wanted && `${total} found${more ? `; the first ${total - more} are shown` : ""}`;
    found.replaceChildren(
      ...shown.flatMap(({ name, rows }) =>
        wanted ? [make("h4", {}, name), rowsOf(rows)] : [details(`${name} (${rows.length})`, () => [rowsOf(rows)])],
      ),
    );
  };
  input.oninput();
  return [make("p", { className: "field" }, make("label", { for: "metadata-filter" }, "Filter by name or value"), input), said, found];
}

/** Show how well a file was read. */
export function qualityPanel(metrics, insights) {
  const { scores, deductions, facts, note, recommendations } = qualityOf(metrics, insights);
  const part = (title, items) => (items.length ? [make("h4", {}, title), list(items)] : []);
  const score = ({ name, score: value, tone, text }) => {
    const element = make("div", { className: "score", "data-tone": tone }, make("span", { className: "note" }, name), make("strong", {}, text));
    if (value !== null) {
      const bar = make("i");
      bar.style.width = `${value * 100}%`;
      element.append(make("span", { className: "track", "aria-hidden": "true" }, bar));
    }
    return element;
  };
  return make("div", { className: "panel" },
    make("h3", {}, "Quality of the extraction"),
    ...(note ? [make("p", {}, note)] : []),
    make("div", { className: "scores" }, ...scores.map(score)),
    ...part("Deductions from the confidence", deductions),
    ...part("Recommendations", recommendations),
    rowsOf(facts),
  );
}

/** Return the elements that show an answer of a metadata route; `clear` is called to remove them. */
export function display(data, clear) {
  const { metadata, quality, insights } = answerOf(data);
  const { filename, filesize } = data;
  const verdict = verdictOf(metadata);
  const evidence = evidenceOf(metadata).map(({ says, where }) => (where ? `${says} (${where})` : says));
  const groups = groupsOf(metadata);
  const count = groups.reduce((sum, { rows }) => sum + rows.length, 0);
  return [
    make("div", { className: "panel" },
      make("div", { className: "panel-bar" }, 
        make("h3", { id: "metadata-name", tabIndex: -1 }, textOf(filename)),
        ...copyButton(() => JSON.stringify(metadata, null, 2), "", "Copy all as JSON"),
        make("button", { type: "button", textContent: "Clear", onclick: clear }),
      ),
      make("div", { className: "verdict", "data-kind": verdict.kind }, make("strong", {}, verdict.title), make("p", { className: "note" }, verdict.detail)),
      ...(evidence.length ? [make("h4", {}, "Evidence"), list(evidence)] : []),
      list(notesOf(metadata)),
    ),
    ...sectionsOf(metadata, { filename, filesize }).map(({ title, rows }) =>
      make("div", { className: "panel" },
        make("div", { className: "panel-bar" }, make("h3", {}, title), ...copyButton(() => rowsText(rows), `Copy ${title}`)),
        rowsOf(rows),
      ),
    ),
    ...(quality ? [qualityPanel(quality, insights)] : []),
    make("div", { className: "panel" }, details(`All fields (${count})`, () => filterable(groups))),
  ];
}

/** Show the stages of an extraction in an ordered list. */
export function showStages(element, state) {
  element.replaceChildren(
    ...stagesOf(state).map(({ name, state: at }) => make("li", { "data-state": at, ...(at === "current" && { "aria-current": "step" }) }, name)),
  );
}
