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
    return Tool(re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])"), source, name, only_generates)


_TOOLS = (
    _tool(r"dall[\s\-·•.]?e(?:[\s\-]?\d)?", Source.DALL_E, "DALL-E"),
    _tool(r"chatgpt", Source.DALL_E, "ChatGPT"),
    _tool(r"gpt-?4o|gpt-image(?:-\d)?", Source.DALL_E, "GPT-4o"),
    _tool(r"openai sora|^sora(?:[ /]?\d.*)?$", Source.DALL_E, "Sora"),
    _tool(r"openai(?:[\s\-_]?api)?", Source.DALL_E, "OpenAI"),
    _tool(r"adobe[\s_]?firefly|firefly", Source.FIREFLY, "Adobe Firefly"),
    _tool(r"bing image creator|image creator from (?:microsoft )?(?:bing|designer)",
          Source.MICROSOFT, "Bing Image Creator"),
    _tool(r"microsoft designer|designer image creator|microsoft_?responsible_?ai|mai-image-\d",
          Source.MICROSOFT, "Microsoft Designer"),
    _tool(r"microsoft(?: corporation)?|azure openai.{0,30}", Source.MICROSOFT, "Microsoft",
          only_generates=False),
    _tool(r"made with google ai|(?:google )?imagen(?:[\s\-]?\d)?", Source.GOOGLE, "Google Imagen"),
    _tool(r"(?:google )?gemini|nano banana", Source.GOOGLE, "Google Gemini"),
    _tool(r"google(?: llc)?(?: c2pa core generator library)?", Source.GOOGLE, "Google",
          only_generates=False),
    _tool(r"midjourney", Source.MIDJOURNEY, "Midjourney"),
    _tool(r"novelai", Source.NOVELAI, "NovelAI"),
    _tool(r"invoke-?ai", Source.INVOKEAI, "InvokeAI"),
    _tool(r"comfyui", Source.COMFYUI, "ComfyUI"),
    _tool(r"(?:ruined)?fooocus", Source.FOOOCUS, "Fooocus"),
    _tool(r"draw things", Source.STABLE_DIFFUSION, "Draw Things"),
    _tool(r"easy diffusion", Source.STABLE_DIFFUSION, "Easy Diffusion"),
    _tool(r"swarmui|stableswarm(?:ui)?", Source.STABLE_DIFFUSION, "SwarmUI"),
    _tool(r"automatic1111|stable[\s\-]?diffusion.{0,20}|sd\.next|dreamstudio",
          Source.STABLE_DIFFUSION, "Stable Diffusion"),
    _tool(r"stability[\s.]?ai", Source.STABLE_DIFFUSION, "Stability AI"),
    _tool(r"leonardo[\s.]?ai", Source.OTHER, "Leonardo.Ai"),
    _tool(r"ideogram(?:[\s.]?ai)?", Source.OTHER, "Ideogram"),
    _tool(r"black forest labs|flux[.\-\s]?\d.{0,20}", Source.OTHER, "Black Forest Labs FLUX"),
    _tool(r"recraft(?:[\s.]?ai)?", Source.OTHER, "Recraft"),
    _tool(r"krea[\s.]?ai", Source.OTHER, "Krea"),
    _tool(r"grok(?: image.{0,20})?|x\.?ai grok", Source.OTHER, "Grok"),
    _tool(r"meta ai|imagined with ai|made with meta ai", Source.OTHER, "Meta AI"),
    _tool(r"craiyon", Source.OTHER, "Craiyon"),
    _tool(r"nightcafe(?: studio| creator)?", Source.OTHER, "NightCafe"),
    _tool(r"playground[\s.]?ai|playground v\d.{0,9}", Source.OTHER, "Playground"),
    _tool(r"runway(?:ml| gen-?\d)", Source.OTHER, "Runway"),
    _tool(r"wombo(?: dream)?|dream by wombo", Source.OTHER, "Wombo Dream"),
    _tool(r"starryai", Source.OTHER, "starryai"),
    _tool(r"artbreeder", Source.OTHER, "Artbreeder"),
    _tool(r"tensor\.?art|seaart(?:[\s.]?ai)?", Source.OTHER, "SeaArt or Tensor.Art"),
    _tool(r"amazon titan image.{0,20}|titan image generator.{0,9}", Source.OTHER, "Amazon Titan"),
    _tool(r"seedream.{0,9}|jimeng.{0,9}|dreamina", Source.OTHER, "ByteDance Seedream"),
)  # fmt: skip


def tool_of(text: str) -> Tool | None:
    """Return the first tool of the table that a text names."""
    lower = text.lower().replace("_", " ")
    return next((tool for tool in _TOOLS if tool.pattern.search(lower)), None)
