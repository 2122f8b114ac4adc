"""Names of generators in fields that name software."""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.metadata.generation.finding import Source


class Tool(NamedTuple):
    """A tool by the pattern of its name."""

    pattern: re.Pattern[str]
    source: Source
    name: str
    only_generates: bool
    """Whether its name alone proves a generation; cameras and editors of the vendor exist too."""


def _tool(pattern: str, source: Source, name: str, *, only_generates: bool = True) -> Tool:
    """Return a tool whose pattern matches a word or words of a text."""
    return Tool(re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])"), source, name, only_generates)


_VERSION = r"(?:[\s/\-]?v?\d[\w.\-]{0,20}(?: \([\w. ]{1,20}\))?)?"


def _whole(pattern: str, source: Source, name: str, *, only_generates: bool = True) -> Tool:
    """Return a tool whose pattern matches a whole text, with or without a version.

    For names that are words of a language, or parts of the names of other products.
    """
    compiled = re.compile(rf"\A\s*(?:{pattern}){_VERSION}\s*\Z")
    return Tool(compiled, source, name, only_generates)


# Underscores are replaced by spaces before the search.
_TOOLS = (
    _tool(r"dall[\-·•.]e(?:[\s\-]?\d)?", Source.DALL_E, "DALL-E"),
    # Also an Italian and a French word.
    _whole(r"dall\s?e", Source.DALL_E, "DALL-E"),
    _tool(r"chatgpt", Source.DALL_E, "ChatGPT"),
    _tool(r"gpt[\s\-]?4o|gpt[\s\-]image(?:[\s\-]\d)?", Source.DALL_E, "GPT-4o"),
    _tool(r"openai[\s/\-]sora", Source.DALL_E, "Sora"),
    _whole(r"sora(?:[\s\-]2[\s\-]pro)?", Source.DALL_E, "Sora"),
    _tool(r"openai(?:[\s\-]?api)?", Source.DALL_E, "OpenAI"),
    _tool(r"adobe[\s/\-]?firefly|firefly image(?: model)? ?\d", Source.FIREFLY, "Adobe Firefly"),
    # Action cameras and mice have the name, too.
    _whole(r"firefly", Source.FIREFLY, "Adobe Firefly", only_generates=False),
    _tool(r"bing image creator|image creator from (?:microsoft )?(?:bing|designer)",
          Source.MICROSOFT, "Bing Image Creator"),
    _tool(r"microsoft designer|designer image creator|mai-image-\d"
          r"|microsoft[\s\-]?responsible[\s\-]?ai", Source.MICROSOFT, "Microsoft Designer"),
    _tool(r"microsoft(?: corporation)?", Source.MICROSOFT, "Microsoft", only_generates=False),
    _tool(r"made with google ai|google[\s/\-]imagen(?:[\s\-]?\d)?", Source.GOOGLE, "Google Imagen"),
    # The Spanish word for an image.
    _whole(r"imagen[\s\-]?\d(?:\.\d)?(?:[\s\-](?:ultra|fast|generate|preview|exp|\d{1,3}))*",
           Source.GOOGLE, "Google Imagen"),
    _whole(r"imagen", Source.GOOGLE, "Google Imagen", only_generates=False),
    _tool(r"google[\s/\-]gemini|nano banana"
          r"|gemini[\s\-]\d(?:\.\d)?[\s\-](?:pro|flash|ultra|nano)",
          Source.GOOGLE, "Google Gemini"),
    # Also an observatory, and a program that finds duplicates ("Gemini 2").
    _whole(r"gemini(?: (?:apps?|advanced))?", Source.GOOGLE, "Google Gemini", only_generates=False),
    _tool(r"google(?: llc)?(?: c2pa core generator library)?", Source.GOOGLE, "Google",
          only_generates=False),
    _tool(r"midjourney", Source.MIDJOURNEY, "Midjourney"),
    _tool(r"novelai", Source.NOVELAI, "NovelAI"),
    _tool(r"invoke[\s\-]?ai", Source.INVOKEAI, "InvokeAI"),
    _tool(r"comfyui", Source.COMFYUI, "ComfyUI"),
    _tool(r"(?:ruined)?fooocus", Source.FOOOCUS, "Fooocus"),
    _whole(r"draw things(?:[\s\-]?(?:ai|app))?", Source.STABLE_DIFFUSION, "Draw Things"),
    _tool(r"easy diffusion", Source.STABLE_DIFFUSION, "Easy Diffusion"),
    _tool(r"swarmui|stableswarm(?:ui)?", Source.STABLE_DIFFUSION, "SwarmUI"),
    _tool(r"automatic1111|stable[\s\-]?diffusion.{0,20}|sd\.next",
          Source.STABLE_DIFFUSION, "Stable Diffusion"),
    _whole(r"dreamstudio", Source.STABLE_DIFFUSION, "Stable Diffusion"),
    _tool(r"stability[\s.\-]?ai", Source.STABLE_DIFFUSION, "Stability AI"),
    _tool(r"leonardo[\s.]?ai", Source.OTHER, "Leonardo.Ai"),
    _tool(r"ideogram[\s.]?ai", Source.OTHER, "Ideogram"),
    _whole(r"ideogram", Source.OTHER, "Ideogram"),
    _tool(r"black forest labs|flux\.[12](?![\d.])|flux[\s.\-]?\d(?:\.\d)?[\s\-]*[\[(]?"
          r"(?:dev|schnell|pro|ultra|kontext|krea|fill|flex|max|klein)",
          Source.OTHER, "Black Forest Labs FLUX"),
    _tool(r"recraft[\s.]?ai", Source.OTHER, "Recraft"),
    _whole(r"recraft", Source.OTHER, "Recraft"),
    _tool(r"krea[\s.]?ai", Source.OTHER, "Krea"),
    _tool(r"grok imag(?:e prompt|e gen(?:erat(?:ion|or))?|ine)|x\.?ai grok", Source.OTHER, "Grok"),
    # Also a codec for JPEG 2000.
    _whole(r"grok(?: image)?", Source.OTHER, "Grok", only_generates=False),
    _tool(r"meta ai|imagined with ai|made with meta ai", Source.OTHER, "Meta AI"),
    _tool(r"craiyon", Source.OTHER, "Craiyon"),
    _tool(r"nightcafe(?: studio| creator)?", Source.OTHER, "NightCafe"),
    _tool(r"playground[\s.]ai|playgroundai", Source.OTHER, "Playground"),
    _whole(r"playground v\d(?:\.\d)?", Source.OTHER, "Playground"),
    _tool(r"runway(?:ml| gen-?\d)", Source.OTHER, "Runway"),
    _tool(r"wombo(?: dream)?|dream by wombo", Source.OTHER, "Wombo Dream"),
    _tool(r"starryai", Source.OTHER, "starryai"),
    _tool(r"artbreeder", Source.OTHER, "Artbreeder"),
    _tool(r"tensor\.?art|seaart(?:[\s.]?ai)?", Source.OTHER, "SeaArt or Tensor.Art"),
    _tool(r"amazon titan image.{0,20}|titan image generator.{0,9}", Source.OTHER, "Amazon Titan"),
    _tool(r"bytedance seedream|seedream[\s\-]?\d|dreamina", Source.OTHER, "ByteDance Seedream"),
    _whole(r"seedream|jimeng(?:[\s.]?ai)?", Source.OTHER, "ByteDance Seedream"),
)  # fmt: skip


def tool_of(text: str) -> Tool | None:
    """Return the first tool of the table that a text names."""
    lower = text.lower().replace("_", " ")
    return next((tool for tool in _TOOLS if tool.pattern.search(lower)), None)
