"use client";
// The address of the server and the signer of URLs, for all components of this package.

import { createContext, createElement } from "react";

export const Base = createContext("");
export const Signer = createContext(undefined);

/** Sets `base`, and `sign` for private images, for all components inside. */
export function SmartserveProvider({ base, sign, children }) {
  const signed = createElement(Signer.Provider, { value: sign }, children);
  return createElement(Base.Provider, { value: base ?? "" }, signed);
}
