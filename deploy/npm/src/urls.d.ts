export type PictureFormat = "avif" | "webp" | "jpeg" | "jpg" | "png" | "gif";

export interface PictureOperations {
  /** In pixels; rounded up to the next of `WIDTHS`. */
  width?: number | string;
  /** A named size of the server, if no width is given. */
  size?: string;
  dpr?: number;
  /** Without it, the Accept header decides. */
  format?: PictureFormat | (string & {});
  background?: "original" | "removed" | (string & {});
  /** Changes when the image changes; the URL can then be cached for a year. */
  version?: string;
}

export interface ParsedPicture {
  /** Empty if the source names no host. */
  base: string;
  id: string;
  operations: PictureOperations;
}

export const WIDTHS: readonly number[];
export function snap(width: number): number;
export function pictureUrl(
  base: string,
  id: number | string,
  operations?: PictureOperations,
): string;
export function parsePicture(source: number | string | URL): ParsedPicture | null;
export function pictureSrcset(
  base: string,
  id: number | string,
  widest: number,
  operations?: PictureOperations,
): string;
