"""KFP component: a current window against a reference window."""
