"use client";
// The address of the server, for all components of this package.

import { createContext, createElement } from "react";

export const Base = createContext("");

/** Sets `base` for all components inside. */
export function SmartserveProvider({ base, children }) {
  return createElement(Base.Provider, { value: base }, children);
}
