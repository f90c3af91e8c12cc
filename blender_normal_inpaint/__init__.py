"""Normal Inpaint: repairs holes in the normal maps of faces, in Blender and from the command line.

As a Blender extension this file is all that Blender sees: `register` and `unregister`. Nothing that needs
Blender is imported before `register` runs, so the command line and the worker import the package without it.
"""


def register() -> None:
    """Add the operators, panels, properties and preferences to Blender."""
    from .addon.registration import register

    register()


def unregister() -> None:
    """Stop the worker and take everything out of Blender again."""
    from .addon import registration

    registration.unregister()
