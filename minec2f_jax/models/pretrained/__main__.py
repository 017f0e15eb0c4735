"""The command `python -m minec2f_jax.models.pretrained PATH`: what a weight file holds."""

import sys

from absl import app, flags

from minec2f_jax import console
from minec2f_jax.errors import UserError
from minec2f_jax.models import pretrained
from minec2f_jax.models.pretrained import summary


def main(argv):
  if len(argv) != 2:
    raise app.UsageError("give the path of one weight file")
  try:
    bands = flags.FLAGS.bands
    encoder = pretrained.load(argv[1], bands=bands, adapter=flags.FLAGS.adapter)
    console.say(summary.describe(argv[1], encoder, bands=bands, adapter=flags.FLAGS.adapter))
  except UserError as error:
    sys.exit(f"minec2f_jax.models.pretrained: {error}")


if __name__ == "__main__":
  flags.DEFINE_list(
    "bands", list(pretrained.RGB), f"The image's bands in their order, out of {','.join(pretrained.BANDS)}."
  )
  flags.DEFINE_string("adapter", "inflate", f"How the encoder takes these bands: {', '.join(pretrained.ADAPTERS)}.")
  app.run(main)
