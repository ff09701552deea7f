"""A model on disk, with its card in Markdown and its summary for notebooks."""
