"""The job itself: numpy only, with neither Blender nor a network library in sight."""
