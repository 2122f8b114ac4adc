// What <SmartImage> is compared with.
export default function Page() {
  return (
    <img
      src="http://img.test/serve/2?w=828"
      srcSet="http://img.test/serve/2?w=640 640w, http://img.test/serve/2?w=828 828w"
      sizes="768px"
      width={768}
      height={512}
      alt=""
      fetchPriority="high"
    />
  );
}
