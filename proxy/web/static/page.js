// The page: its parts, put together.

import { byId } from "./dom.js";
import * as gallery from "./gallery.js";
import * as inspector from "./inspector.js";
import * as live from "./live.js";
import * as upload from "./upload.js";

function openByAddress() {
  const id = Number(location.hash.slice(1));
  if (Number.isSafeInteger(id) && id > 0 && !byId("inspector").open) {
    inspector.open(gallery.all().find((one) => one.id === id) ?? { id });
  }
}

inspector.start(gallery.all, gallery.focusTile);
await gallery.start(inspector.open);
openByAddress();
addEventListener("hashchange", openByAddress);
live.watch();
upload.start(async (id) => {
  await gallery.refresh();
  return () => inspector.open(gallery.all().find((one) => one.id === id) ?? { id });
});
