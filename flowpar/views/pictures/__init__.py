"""Pictures of graphs: what is in them, how it looks, and what draws it."""
