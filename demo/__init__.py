"""The demonstration: a head, its baked normal map, damage, and the repair, in real Blender."""
