import { SmartImage } from "smartserve-image/react";

export default function Page() {
  return (
    <>
      <div style={{ height: 9000 }} />
      <SmartImage mediaId={2} width={768} height={512} alt="" />
    </>
  );
}
