import type { CSSProperties, ReactElement } from "react";

export interface SmartImageProps {
  /** Where the server is: https://img.example.org. */
  base: string;
  mediaId: number | string;
  /** A named size; without it as wide as it stands on the page. */
  size?: string;
  alt?: string;
  background?: "original" | "removed";
  /** In this order; without them the server picks by the Accept header. */
  preferredFormats?: readonly string[] | string;
  /** In view at once: no lazy loading. */
  priority?: boolean;
  /** Tells below it what is known of it. */
  showAnalysis?: boolean;
  /** The picture's own, of /info: so its place is held before anything is there. */
  width?: number;
  height?: number;
  className?: string;
  style?: CSSProperties;
  onLoad?: (event: Event) => void;
  /** The final has taken the draft's place. */
  onFinal?: (event: Event) => void;
  onError?: (event: unknown) => void;
}

export function SmartImage(props: SmartImageProps): ReactElement;
