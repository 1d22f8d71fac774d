"""What people already write: Pool, Executor, Parallel and streams, on flowpar's own pools."""
