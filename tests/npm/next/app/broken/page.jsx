import { SmartImage } from "smartserve-image/react";

export default function Page() {
  return (
    <>
      <SmartImage mediaId={undefined} width={300} height={200} alt="not known yet" showAIData />
      <SmartImage mediaId="undefined" width={300} height={200} alt="not an id" />
      <SmartImage mediaId={3} width={300} height={200} alt="fine" />
    </>
  );
}
