"""KFP component: supervised fine-tuning."""
