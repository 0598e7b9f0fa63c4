"""KFP component: the cells of the collapse study."""
