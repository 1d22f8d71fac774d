"""Who did what when: plain data, and charts and traces of it."""
