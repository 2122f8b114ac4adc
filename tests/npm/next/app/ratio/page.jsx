import { SmartImage } from "smartserve-image/react";

export default function Page() {
  return (
    <>
      <SmartImage mediaId={2} aspectRatio={1.5} alt="by a number" />
      <SmartImage mediaId={3} style={{ aspectRatio: "3 / 2" }} alt="by a style" />
    </>
  );
}
