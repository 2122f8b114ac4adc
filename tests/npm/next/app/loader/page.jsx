import Image from "next/image";

export default function Page() {
  return (
    <>
      <Image src="2" width={768} height={512} alt="by id" sizes="100vw" preload />
      <Image src="/badge.png" width={16} height={16} alt="of the application" />
    </>
  );
}
