"""How fast a repair is, and how much memory it takes, beside OpenCV on the same maps."""
