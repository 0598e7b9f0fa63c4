"""KFP component: the verdict of the collapse study."""
