"""What tasks share: values in shared memory, locks, and queues, that travel as their names."""
