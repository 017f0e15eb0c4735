"""A trained model for those who have none of this code, and the gate that each of its files must pass.

What all of them compute is one function, `probability.make_probability`: reflectance in, probability out. Its facts are
plain JSON, model.json, which the card, the STAC item and the ONNX file's metadata are made of:

{"name", "architecture", "stage", "method", "stages": [{"name", "method", "streams"}], "model_sha256", "parameters",
 "bands": [{"name", "wavelength_um", "mean", "std"}], in the order of the channels; the statistics are of reflectance,
 "image_size" (pixels a side in training), "gsd_m" (or null), "sizes" ("any", or [height, width]),
 "data", "images": {"coarse train": number}, "scores": [{"tested_on", "scores"}], "pretrained" (a file's name, or null),
 "network": what rebuilds it, {"model", "stage", and the section of the method if it has one}, "jax" (version)}
"""
