"""The paper's questions as sweeps: what a job is, what it leaves, and what jobs of one process share."""
