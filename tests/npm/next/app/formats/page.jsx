import { SmartImage } from "smartserve-image/react";

export default function Page() {
  return <SmartImage mediaId={2} width={768} height={512} alt="" preferredFormats="webp jpeg" priority />;
}
