"""Where normal maps to learn from come from.

Every source yields the project's internal frame: unit vectors, top row first, x right, y up, z out, with a
boolean map of the texels that are surface.
"""
