"""When to cut where: latency model, estimators, policies. Pure, standard library only."""
