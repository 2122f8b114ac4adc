import { Image } from "@unpic/react/base";
import { transform } from "smartserve-image/unpic";

export default function Page() {
  return <Image src="http://img.test/serve/2" transformer={transform} width={600} aspectRatio={1.5} alt="" />;
}
