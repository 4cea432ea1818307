"""A study: arms of a method on data and seeds, run cell by cell, and what their results say."""
