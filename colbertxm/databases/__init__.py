"""Serving databases that hold token vectors: passages of an index or a corpus, and answers beside exact MaxSim."""
