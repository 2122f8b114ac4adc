"""AI generation: which tool made an image, with which parameters, and the evidence for it.

`detect` runs the parsers in the order of a table. A parser is a pure function over `Sources`; it
returns a `ParserResult`, or None, and never raises.
"""
