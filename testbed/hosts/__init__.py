"""SSH connections, deployment, clocks, environment, preflight (paramiko lives here only)."""
