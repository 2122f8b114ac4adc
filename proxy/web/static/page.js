// Connects the parts of the page.

import { byId } from "./dom.js";
import * as gallery from "./gallery.js";
import * as inspector from "./inspector.js";
import * as live from "./live.js";
import * as upload from "./upload.js";

function openFromHash() {
  const id = Number(location.hash.slice(1));
  if (Number.isSafeInteger(id) && id > 0 && !byId("inspector").open) {
    inspector.open(gallery.all().find((one) => one.id === id) ?? { id });
  }
}

inspector.start(gallery.all, gallery.focusTile);
await gallery.start(inspector.open);
openFromHash();
addEventListener("hashchange", openFromHash);
live.watch();
upload.start(async (id) => {
  await gallery.refresh();
  return () => inspector.open(gallery.all().find((one) => one.id === id) ?? { id });
});
