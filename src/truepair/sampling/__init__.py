"""Who meets in a batch. Needs nothing but torch and numpy."""
