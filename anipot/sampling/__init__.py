"""New structures for a data set: sampling, and the query by committee."""
