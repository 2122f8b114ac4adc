export default defineNuxtConfig({
  modules: ["@nuxt/image"],
  compatibilityDate: "2026-01-01",
  telemetry: false,
  app: { head: { title: "smartserve", htmlAttrs: { lang: "en" } } },
  build: { transpile: ["smartserve-image"] },
  image: {
    provider: "smartserve",
    providers: {
      smartserve: { provider: "smartserve-image/nuxt", options: { baseURL: "http://img.test" } },
    },
  },
});
