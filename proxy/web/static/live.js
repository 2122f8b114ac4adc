// The panel of figures: /metrics, looked at while the page is.

import { byId } from "./dom.js";
import { figures, parse } from "./metrics.js";
import { bytes, percent, time } from "./words.js";

const EVERY_MS = 2000;

function show(name, figure, note) {
  const panel = byId("live");
  panel.querySelector(`[data-live="${name}"]`).textContent = figure;
  panel.querySelector(`[data-note="${name}"]`).textContent = note;
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

async function look() {
  const answer = await fetch("/metrics", { cache: "no-store" });
  const now = figures(parse(await answer.text()));
  if (now.answered) {
    show("hits", percent(now.cached / now.answered), `of ${count(now.answered, "answer")} since the start`);
    show("latency", time(now.median), `in the middle; 95 of 100 below ${time(now.late)}`);
  }
  const idle = now.waiting ? "waiting for a worker" : "nobody waits";
  const work = now.rendering ? `${now.rendering} being rendered` : idle;
  show("queue", String(now.waiting), now.backlog ? `${work}, ${count(now.backlog, "final")} to come` : work);
  const finals = now.finals ? `by ${count(now.finals, "round")} of finals` : "finals replace drafts when there is time";
  show("saved", bytes(now.saved), finals);
}

export async function watch() {
  for (;;) {
    if (!document.hidden) await look().catch(() => show("queue", "–", "the server does not answer"));
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}
