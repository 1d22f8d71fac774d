"""What people see of a run; each view hears events or reads a graph, never the scheduler."""
