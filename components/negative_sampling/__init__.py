"""KFP component: examples to preference rows."""
