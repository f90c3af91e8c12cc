"""Normal Inpaint: repairs holes in the normal maps of faces, in Blender and from the command line."""
