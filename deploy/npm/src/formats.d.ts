export interface ImageFormat {
  name: string;
  extensions: readonly string[];
  mimeTypes: readonly string[];
  level: "comprehensive" | "standard" | "basic";
}

export const FORMATS: readonly ImageFormat[];
/** With a dot, in lower case. */
export const SUPPORTED_IMAGE_EXTENSIONS: readonly string[];
export const SUPPORTED_IMAGE_MIMES: readonly string[];
/** The server's answer for a file of another type. */
export const UNSUPPORTED_FORMAT: string;
