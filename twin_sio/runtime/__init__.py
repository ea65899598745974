"""The processes: every part is made here and handed what it needs. May import everything."""
