"""KFP component: interactions to examples."""
