import type { CSSProperties, ReactElement } from "react";

export interface SmartImageProps {
  /** The server's address: https://img.example.org. */
  base: string;
  mediaId: number | string;
  /** A named size. Without it, the width of the element is used. */
  size?: string;
  alt?: string;
  background?: "original" | "removed";
  /** In order of preference. Without them, the Accept header decides. */
  preferredFormats?: readonly string[] | string;
  /** Visible without scrolling: no lazy loading. */
  priority?: boolean;
  /** Shows the analysis below the image. */
  showAnalysis?: boolean;
  /** Of the image, from /info: reserves the space before the image is loaded. */
  width?: number;
  height?: number;
  className?: string;
  style?: CSSProperties;
  onLoad?: (event: Event) => void;
  /** The final has replaced the draft. */
  onFinal?: (event: Event) => void;
  onError?: (event: unknown) => void;
}

export function SmartImage(props: SmartImageProps): ReactElement;
