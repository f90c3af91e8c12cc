"""Helpers of the development commands; nothing here is part of the extension."""
