"""From records to checked rows in memory-mapped Arrow files."""
