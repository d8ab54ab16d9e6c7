"""One module a figure; each draws one condition (or the link) and returns a matplotlib figure."""
