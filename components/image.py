"""The image that components name until a pipeline is compiled with a real one."""

# Stands for the image until a pipeline is compiled with one (`dynamicpo compile --image`).
# KFP's subprocess runner warns of an image without "python" in its name.
IMAGE = "dynamicpo-python:local"
