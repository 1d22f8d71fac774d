"""What people see of a run; each view hears events or reads a graph, never the scheduler.

`pictures` of graphs, `timelines` and traces of what ran when, `reports` of all there is to tell,
kept or live; `progress` and `output` on a terminal.
"""
