"""KFP component: evaluations side by side."""
