"""Where batches run: serial, threads, processes, an event loop, or a pool of the user's."""
