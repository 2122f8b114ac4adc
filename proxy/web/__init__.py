"""The HTTP surface: routes, headers and bodies on aiohttp; every decision is made further down."""
