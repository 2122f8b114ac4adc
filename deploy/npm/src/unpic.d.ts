/** The operations that unpic speaks of, with those of smartserve beside them. */
export interface SmartserveOperations {
  width?: number | string;
  /** Not taken up: pictures keep their shape. */
  height?: number | string;
  format?: string;
  /** Not taken up: the server finds the quality that looks good. */
  quality?: number | string;
  size?: string;
  dpr?: number;
  background?: string;
}

export function extract(
  url: string | URL,
): { src: string; operations: SmartserveOperations } | null;
export function generate(src: string | URL, operations?: SmartserveOperations): string;
export function transform(src: string | URL, operations?: SmartserveOperations): string;
