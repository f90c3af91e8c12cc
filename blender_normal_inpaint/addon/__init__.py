"""The Blender side: the only code that imports bpy. Nothing is imported until `registration` is."""
