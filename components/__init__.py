"""KFP components: one folder a stage, wiring only."""

# Stands for the image until a pipeline is compiled with one (`dynamicpo compile --image`).
# KFP's subprocess runner warns of an image without "python" in its name.
IMAGE = "dynamicpo-python:local"
