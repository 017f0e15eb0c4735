"""Typical reflectances of what a landscape with a mine is made of.

From general knowledge, not measurements: vegetation has a red edge and a low SWIR2, water is black beyond the NIR, bare
soil rises towards the SWIR, concrete is flat, and mined rock looks like soil in the visible but is absorbed in SWIR2
(clay, carbonate) or in the NIR (iron oxide). RGB alone therefore mistakes bare soil and towns for mines.
"""

ROLES = ("blue", "green", "red", "nir", "swir1", "swir2")

SPECTRA = {  # Reflectance in the order of ROLES.
  "forest": (0.025, 0.045, 0.028, 0.28, 0.13, 0.06),
  "conifer": (0.022, 0.035, 0.024, 0.20, 0.09, 0.04),
  "grass": (0.045, 0.075, 0.060, 0.30, 0.22, 0.12),
  "dry_grass": (0.08, 0.11, 0.14, 0.25, 0.30, 0.22),
  "tundra": (0.06, 0.08, 0.09, 0.21, 0.24, 0.17),
  "crop": (0.035, 0.070, 0.040, 0.42, 0.20, 0.09),
  "fallow": (0.08, 0.11, 0.15, 0.21, 0.29, 0.25),
  "sand": (0.13, 0.19, 0.26, 0.33, 0.42, 0.38),
  "red_soil": (0.07, 0.10, 0.18, 0.25, 0.34, 0.29),
  "brown_soil": (0.08, 0.11, 0.14, 0.20, 0.28, 0.25),
  "rock": (0.12, 0.15, 0.18, 0.22, 0.27, 0.25),
  "clay": (0.12, 0.16, 0.20, 0.26, 0.32, 0.23),
  "gravel": (0.16, 0.19, 0.22, 0.25, 0.28, 0.26),
  "water": (0.045, 0.045, 0.025, 0.012, 0.006, 0.004),
  "turbid": (0.08, 0.11, 0.11, 0.05, 0.012, 0.008),
  "concrete": (0.15, 0.17, 0.19, 0.22, 0.24, 0.22),
  "roof": (0.10, 0.13, 0.20, 0.26, 0.30, 0.26),
  "asphalt": (0.09, 0.10, 0.11, 0.12, 0.14, 0.13),
  "metal": (0.26, 0.28, 0.30, 0.32, 0.33, 0.30),
  "snow": (0.75, 0.76, 0.74, 0.66, 0.12, 0.08),
  "iron": (0.06, 0.09, 0.18, 0.19, 0.27, 0.20),
  "copper": (0.14, 0.17, 0.21, 0.25, 0.30, 0.20),
  "laterite": (0.09, 0.13, 0.21, 0.28, 0.36, 0.24),
  "limestone": (0.20, 0.25, 0.29, 0.33, 0.35, 0.24),
  "coal": (0.05, 0.055, 0.06, 0.075, 0.10, 0.09),
  "tailings_dry": (0.20, 0.25, 0.29, 0.33, 0.35, 0.25),
  "tailings_wet": (0.13, 0.16, 0.18, 0.17, 0.10, 0.06),
  "pond": (0.07, 0.12, 0.10, 0.045, 0.012, 0.008),
}
COMMODITIES = ("iron", "copper", "laterite", "limestone", "coal")
