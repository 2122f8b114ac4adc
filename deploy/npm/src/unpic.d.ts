import type { Signer } from "./urls.js";

export interface SmartserveOptions {
  /** Signs the URLs of private images. */
  sign?: Signer;
}

/** The operations of unpic, and those of smartserve. */
export interface SmartserveOperations {
  width?: number | string;
  /** Ignored: images keep their aspect ratio. */
  height?: number | string;
  format?: string;
  /** Ignored: the server chooses the quality. */
  quality?: number | string;
  size?: string;
  dpr?: number;
  background?: string;
}

export function extract(
  url: string | URL,
): { src: string; operations: SmartserveOperations } | null;
export function generate(
  src: string | URL,
  operations?: SmartserveOperations,
  options?: SmartserveOptions,
): string;
export function transform(
  src: string | URL,
  operations?: SmartserveOperations,
  options?: SmartserveOptions,
): string;
