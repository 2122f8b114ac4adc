export type PictureFormat = "avif" | "webp" | "jpeg" | "jpg" | "png";

export interface PictureOperations {
  /** In pixels; snapped up to the next of `WIDTHS`. */
  width?: number | string;
  /** A named size of the server, where no width is given. */
  size?: string;
  dpr?: number;
  /** Without it the server picks by the browser's Accept header. */
  format?: PictureFormat | (string & {});
  background?: "original" | "removed" | (string & {});
  /** Changes when the picture does; its address is then kept for ever. */
  version?: string;
}

export interface ParsedPicture {
  /** Empty where the source names no host. */
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
