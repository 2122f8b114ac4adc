export default {
  images: { loader: "custom", loaderFile: "./smartserve-loader.js" },
  // The packages are linked from a cache elsewhere on this machine.
  turbopack: { root: "/" },
  outputFileTracingRoot: "/",
};
