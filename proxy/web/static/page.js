// Connects the parts of the page.

import * as gallery from "./gallery.js";
import * as inspector from "./inspector.js";
import * as live from "./live.js";
import * as upload from "./upload.js";

function openFromHash() {
  const id = Number(location.hash.slice(1));
  if (Number.isSafeInteger(id) && id > 0 && id !== inspector.shownId()) {
    inspector.open(gallery.find(id) ?? { id });
  }
}

inspector.start(gallery.all, gallery.focusTile);
live.watch();
// Without the server's description of its API the drop zone stays hidden.
upload
  .start(async (id) => {
    await gallery.refresh().catch(() => {});
    return () => inspector.open(gallery.find(id) ?? { id });
  }, gallery.newest)
  .catch(() => {});
await gallery.start(inspector.open);
openFromHash();
addEventListener("hashchange", openFromHash);
