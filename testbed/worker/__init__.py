"""Device, server and load roles, wire format, encodings. Needs torch, nothing else."""
