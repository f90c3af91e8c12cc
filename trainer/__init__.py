"""Training of the networks that repair normal maps: data, masks, losses, loop, evaluation, export."""
