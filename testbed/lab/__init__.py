"""The virtual lab: namespaces, sshd, CPU limits."""
