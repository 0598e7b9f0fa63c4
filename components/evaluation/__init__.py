"""KFP component: one model and the baselines on held-out rows."""
