"use client";
// Rendered by the browser alone, with events.

import { useState } from "react";
import { SmartImage } from "smartserve-image/react";

export default function Page() {
  const [id, setId] = useState(null);
  const [events, setEvents] = useState([]);
  const note = (name) => () => setEvents((before) => [...before, name]);
  return (
    <>
      <button onClick={() => setId(2)}>photo</button>
      <button onClick={() => setId(999999)}>missing</button>
      {id && (
        <SmartImage
          mediaId={id} width={300} height={200} alt="" preferredFormats={["webp"]} placeholder="data:image/gif;base64,R0lGODlhAQABAAAAACw="
          onLoad={note("load")} onFinal={note("final")} onError={note("error")}
        />
      )}
      <output>{events.join(" ")}</output>
    </>
  );
}
