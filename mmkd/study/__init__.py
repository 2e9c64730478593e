"""The study: the paper's claims, tested by many runs on one data set."""
