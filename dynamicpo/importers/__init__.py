"""Where interactions come from: two tables, MovieLens' own files, or the published rows."""
