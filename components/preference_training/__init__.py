"""KFP component: DynamicPO and its base objectives."""
