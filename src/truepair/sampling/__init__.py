"""Who meets in a batch. Needs nothing but torch, numpy and scipy."""
