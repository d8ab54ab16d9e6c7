"""Plan, run one, run all, records."""
