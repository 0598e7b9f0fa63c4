"""KFP component: what a run leaves behind, whatever happened."""
