"""All that is to be told of a run: kept, on one page, or live."""
