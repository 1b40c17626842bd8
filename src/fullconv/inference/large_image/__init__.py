"""Images that do not fit in memory as a whole: row streaming and exact tiles."""
