// The live metrics panel: polls /metrics while the page is visible.

import { byId, request } from "./dom.js";
import { figures, parse } from "./metrics.js";
import { bytes, percent, time } from "./format.js";

const INTERVAL_MS = 2000;

function show(name, figure, note) {
  const panel = byId("live");
  panel.querySelector(`[data-live="${name}"]`).textContent = figure;
  panel.querySelector(`[data-note="${name}"]`).textContent = note;
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

// Without current figures the old ones would look current.
function showFailure(error) {
  for (const one of byId("live").querySelectorAll("[data-live]")) one.textContent = "–";
  for (const one of byId("live").querySelectorAll("[data-note]")) one.textContent = "";
  byId("live").querySelector("[data-note]").textContent = error.message;
}

async function update() {
  const response = await request("/metrics", { cache: "no-store" });
  const now = figures(parse(await response.text()));
  if (now.answered) {
    show("hits", percent(now.cached / now.answered), `of ${count(now.answered, "response")} since the server started`);
    show("latency", time(now.median), `median; p95 ${time(now.p95)}`);
  }
  const idle = now.waiting ? "waiting for a worker" : "idle";
  const work = now.rendering ? `${now.rendering} rendering` : idle;
  show("queue", String(now.waiting), now.backlog ? `${work}, ${count(now.backlog, "final")} queued` : work);
  const finals = now.finals ? `${count(now.finals, "final")} rendered` : "finals replace drafts when the server is idle";
  show("saved", bytes(now.saved), finals);
}

export async function watch() {
  for (;;) {
    if (!document.hidden) await update().catch(showFailure);
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
  }
}
