"""A local page that shows what models recommend, side by side."""
