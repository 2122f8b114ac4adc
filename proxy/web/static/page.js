// Connects the parts of the page.

import { json } from "./dom.js";
import * as editor from "./editor.js";
import * as gallery from "./gallery.js";
import * as inspector from "./inspector.js";
import * as live from "./live.js";
import * as metadata from "./metadata.js";
import * as upload from "./upload.js";

function openFromHash() {
  const id = Number(location.hash.slice(1));
  if (Number.isSafeInteger(id) && id > 0 && id !== inspector.shownId()) {
    inspector.open(gallery.find(id) ?? { id });
  }
}

inspector.start(gallery.all, gallery.focusTile, gallery.replaceThumbnail);
live.watch();
async function served(id) {
  await gallery.refresh().catch(() => {});
  return () => inspector.open(gallery.find(id) ?? { id });
}

// Without the server's description of its API the fields for files and the editor stay hidden.
json("/openapi.json")
  .then(({ paths }) => {
    upload.start(paths, served, gallery.newest);
    metadata.start(paths, upload.authorization);
    editor.start(paths, inspector.refresh);
  })
  .catch(() => {});
await gallery.start(inspector.open);
openFromHash();
addEventListener("hashchange", openFromHash);
