"""Networks of Table 1 without a test file of their own for it learn four images by heart."""

from absl.testing import absltest, parameterized

from tests import overfit, toy

NETWORKS = {
  "fpn_densenet": (toy.ENCODER, toy.DECODER, 1e-2),
  "prithvi": (
    dict(width=32, depth=2, heads=2, mlp_ratio=2),
    dict(features=16, dropout=0.0, bn_momentum=0.9),
    3e-3,  # A transformer's rate.
  ),
}


class OverfitTest(parameterized.TestCase):
  @parameterized.parameters(*NETWORKS)
  def test_four_images_are_learned_by_heart(self, architecture):
    encoder, decoder, rate = NETWORKS[architecture]
    model = dict(architecture=architecture, encoder=encoder, decoder=decoder)
    stage = dict(method="supervised", streams=("fine",), init_from_prior=False, loss=dict(bce=1.0, dice=1.0))
    iou = overfit.iou_of_learnt_images({"model": model, "fine": stage}, steps=100, learning_rate=rate)
    self.assertGreater(iou, 0.95)


if __name__ == "__main__":
  absltest.main()
