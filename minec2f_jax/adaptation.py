"""Self-training on a domain without labels: averaged teachers, pseudo-labels, weights, mixing of classes, contrast.

"Source" is the domain with labels, "target" the one without. Classes are numbered from 0; labels and logits may hold
anything, NaN included, where `valid` [B, H, W] is False. Masks, weights and pseudo-labels are for no gradient to pass.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from minec2f_jax import ops


def ema_decay(step, *, decay):
  """What an average keeps of itself at a step: min(1 - 1 / (step + 1), decay), 0 at step 0, where it becomes a copy.

  Mean teachers (Tarvainen & Valpola 2017, arXiv:1703.01780) with the start that DACS' code gives them.

  Args:
    step: [] integer, steps taken before.
    decay: in [0, 1), of a long training.

  Returns:
    [] float32.
  """
  return jnp.minimum(1.0 - 1.0 / (step + 1.0), decay).astype(jnp.float32)


def moving_average(average, values, keep):
  """keep * average + (1 - keep) * values, leaf by leaf; exactly `values` where keep is 0, and without gradient."""
  blend = lambda old, new: jnp.where(keep == 0, new, keep * old + (1 - keep) * new)
  return jax.lax.stop_gradient(jax.tree.map(blend, average, values))


def is_late(step, *, period, share):
  """Whether `step` (from 0) lies in the last `share` of its period of so many steps."""
  return step % period >= (1.0 - share) * period


def two_class_logits(logits):
  """[..., 2] of one logit of mine a pixel, [...]: the softmax of (0, z) is its sigmoid."""
  return jnp.stack([jnp.zeros_like(logits), logits], axis=-1)


def pseudo_label(logits):
  """The most probable class and its probability.

  Args:
    logits: [..., K] float.

  Returns:
    (class [...] int32, probability [...] float32 in [1 / K, 1]), without gradient.
  """
  probs = jax.nn.softmax(jax.lax.stop_gradient(logits).astype(jnp.float32))
  return jnp.argmax(probs, axis=-1).astype(jnp.int32), jnp.max(probs, axis=-1)


def gradual_class_weights(previous, label, valid, *, temperature=0.1, momentum=0.9):
  """Weights of classes that rise, step by step, for those that are rare in an image.

  UDAforRS (Li et al. 2022), "gradual class weights": w = K softmax((1 - f + 1e-6) / T) of the frequencies f in an
  image, smoothed to momentum * previous + (1 - momentum) * w.

  Args:
    previous: [K] float, of the step before; ones before the first.
    label: [B, H, W] integer in 0..K-1.
    valid: [B, H, W] bool; an image without a valid pixel has w = 1.
    temperature: T > 0; the larger, the more alike the weights.
    momentum: in [0, 1].

  Returns:
    (weights of each image [B, K], their mean over the images [K]: the next step's `previous`).
  """
  chex.assert_rank(label, 3)
  chex.assert_equal_shape([label, valid])
  classes = previous.shape[0]
  of_class = (label[..., None] == jnp.arange(classes)) & valid[..., None]
  count = jnp.sum(of_class, axis=(1, 2), dtype=jnp.float32)
  frequency = count / jnp.maximum(jnp.sum(count, axis=-1, keepdims=True), 1.0)
  now = classes * jax.nn.softmax((1.0 - frequency + 1e-6) / temperature)
  weights = momentum * previous + (1.0 - momentum) * now
  return weights, jnp.mean(weights, axis=0)


def weight_map(weights, label, valid):
  """Each pixel's weight [B, H, W] of the weights [B, K] of its image and the class `label` [B, H, W] of the pixel."""
  label = ops.replace_invalid(label, valid).astype(jnp.int32)
  return jnp.take_along_axis(weights, label.reshape(label.shape[0], -1), axis=1).reshape(label.shape)


def local_quality(confident, *, size=7):
  """How much of a pixel's surroundings is sure: the share of `confident` in the window around it, zeros outside.

  UDAforRS (Li et al. 2022), "local dynamic quality".

  Args:
    confident: [B, H, W] bool.
    size: edge of the window, pixels, odd.

  Returns:
    [B, H, W] float32 in [0, 1].
  """
  border = size // 2
  padded = jnp.pad(confident.astype(jnp.float32), ((0, 0), (border, border), (border, border)))
  # Whole numbers before the division: a window that is all sure weighs exactly 1.
  return ops.filter_symmetric(padded, (1.0,) * size) / size**2


def class_mask(key, label, valid, *, classes):
  """The pixels of half the classes, drawn for each image anew: what is cut out of it (ClassMix).

  Olsson et al. 2021, arXiv:2007.07936. Of the P classes that the batch shows, (P + 1) // 2 are drawn; an image need
  not show them.

  Args:
    key: a jax PRNG key.
    label: [B, H, W] integer in 0..classes-1.
    valid: [B, H, W] bool.
    classes: K.

  Returns:
    (mask [B, H, W] bool, True on valid pixels alone; the classes drawn [B, K] bool).
  """
  label = ops.replace_invalid(label, valid).astype(jnp.int32)
  present = jnp.any((label[..., None] == jnp.arange(classes)) & valid[..., None], axis=(0, 1, 2))
  scores = jnp.where(present, jax.random.uniform(key, (label.shape[0], classes)), -1.0)
  rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
  chosen = (rank < (jnp.sum(present) + 1) // 2) & present
  mask = jnp.take_along_axis(chosen, label.reshape(label.shape[0], -1), axis=1).reshape(label.shape)
  return mask & valid, chosen


def paste(mask, source, target):
  """`source` where `mask` [B, H, W] is True, else `target`: trees of the same arrays [B, H, W, ...]."""
  where = lambda new, old: jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new, old)
  return jax.tree.map(where, source, target)


def weighted_cross_entropy_loss(logits, label, weight, valid):
  """Mean over the valid pixels of weight * cross-entropy, in nats; the weights are not divided out.

  Args:
    logits: [B, H, W, K] float, differentiated.
    label: [B, H, W] integer in 0..K-1.
    weight: [B, H, W] float, at least 0.
    valid: [B, H, W] bool.

  Returns:
    Scalar; 0 if no pixel is valid.
  """
  chex.assert_equal_shape([label, weight, valid])
  chex.assert_equal_shape_prefix([logits, label], 3)
  logits = ops.replace_invalid(logits, valid[..., None])
  label = ops.replace_invalid(label, valid).astype(jnp.int32)
  entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
  return ops.masked_mean(jax.lax.stop_gradient(weight) * entropy, valid)


def maximum_squares_loss(logits, valid, *, exponent=0.2):
  """How far answers are from certainty, rare classes weighing more: minus their squared probabilities.

  Chen et al. 2019, arXiv:1909.13589, "maximum squares" with image-wise weights, as the published code of CCDA (Shenaj
  et al. 2022) has it: of N images with P valid pixels, of which n_c have c as their best class, a pixel of that class
  weighs 1 / max(n_c^a P^(1 - a), 1), and the sum over pixels and classes is divided by -N K. So counts are those of the
  whole batch, and a larger batch makes the loss smaller.

  Args:
    logits: [B, H, W, K] float, differentiated, the best classes and their counts not.
    valid: [B, H, W] bool; logits under False may be NaN.
    exponent: a in [0, 1]; 0 weighs all classes alike.

  Returns:
    Scalar in [-1, 0]; 0 if no pixel is valid.
  """
  chex.assert_equal_shape_prefix([logits, valid], 3)
  classes = logits.shape[-1]
  logits = ops.replace_invalid(logits.astype(jnp.float32), valid[..., None])
  best = jnp.argmax(logits, axis=-1)
  of_class = (best[..., None] == jnp.arange(classes)) & valid[..., None]
  count = jnp.sum(of_class, axis=(0, 1, 2), dtype=jnp.float32)
  weights = 1.0 / jnp.maximum(count**exponent * jnp.sum(count) ** (1.0 - exponent), 1.0)
  squares = jnp.sum(jax.nn.softmax(logits) ** 2, axis=-1)
  return -ops.masked_sum(weights[best] * squares, valid) / (valid.shape[0] * classes)


def parent_divergence_loss(student_logits, teacher_logits, valid, *, children):
  """KL(teacher || student) in nats, where each class of the teacher is the sum of some classes of the student.

  CCDA (Shenaj et al. 2022), coarse-to-fine distillation: the student's probability of a coarse class is that of all its
  children together. The original is the cross-entropy, which is larger by the teacher's entropy, a constant.

  Args:
    student_logits: [B, H, W, L] float, differentiated.
    teacher_logits: [B, H, W, K] float; gradient stopped.
    valid: [B, H, W] bool; logits under False may be NaN.
    children: for each of the K classes a tuple of its student's, all of 0..L-1 once.

  Returns:
    Scalar; 0 where the two agree, and if no pixel is valid.
  """
  chex.assert_equal_shape_prefix([student_logits, teacher_logits, valid], 3)
  chex.assert_equal(len(children), teacher_logits.shape[-1])
  chex.assert_equal(sorted(child for group in children for child in group), list(range(student_logits.shape[-1])))
  clean = lambda logits: ops.replace_invalid(logits.astype(jnp.float32), valid[..., None])
  log_probs = jax.nn.log_softmax(clean(student_logits))
  of_parents = [jax.nn.logsumexp(log_probs[..., list(group)], axis=-1) for group in children]
  target = jax.lax.stop_gradient(jax.nn.log_softmax(clean(teacher_logits)))
  divergence = jnp.sum(jnp.exp(target) * (target - jnp.stack(of_parents, axis=-1)), axis=-1)
  return ops.masked_mean(divergence, valid)


def erode(mask):
  """True where a pixel of the mask [B, H, W] and its eight neighbours in the image are True."""
  return ops.min_pool(mask, 3, padding="SAME")


def dilate(mask):
  """True where a pixel of the mask [B, H, W] or one of its eight neighbours is True."""
  return ~ops.min_pool(~mask, 3, padding="SAME")


def contrast_loss(key, features, mask, valid, *, samples=1024):
  """How little features inside a region agree with their mean against those just outside it (BUS' DECON).

  BUS (Choe et al. 2024): anchors a are features where the mask is eroded, the positive p is the mean of all of these,
  negatives n lie where the mask is dilated but not itself. With all at length 1, the mean over the anchors of
  -log(e^(a p) / (e^(a p) + sum_n e^(a n))), without a temperature, and divided by the number of images, as its code has
  it. The regions of all images count together.

  Args:
    key: a jax PRNG key, for which anchors and negatives are drawn.
    features: [B, H, W, C] float, differentiated, the mean too.
    mask: [B, H, W] bool, the region.
    valid: [B, H, W] bool; features under False are neither.
    samples: at most so many anchors, and as many negatives.

  Returns:
    Scalar; 0, with zero gradient, if there is no anchor or no negative.
  """
  chex.assert_equal_shape([mask, valid])
  chex.assert_equal_shape_prefix([features, mask], 3)
  inside = (erode(mask) & valid).reshape(-1)
  outside = (dilate(mask) & ~mask & valid).reshape(-1)
  flat = ops.replace_invalid(features.astype(jnp.float32), valid[..., None]).reshape(-1, features.shape[-1])
  prototype = jnp.sum(jnp.where(inside[:, None], flat, 0.0), axis=0) / jnp.maximum(jnp.sum(inside), 1)
  anchor_key, negative_key = jax.random.split(key)
  anchors, is_anchor = _draw(anchor_key, flat, inside, samples)
  negatives, is_negative = _draw(negative_key, flat, outside, samples)
  anchors, negatives, prototype = map(ops.unit_length, (anchors, negatives, prototype))
  product = lambda a, b: jnp.dot(a, b, precision="highest")
  positive = product(anchors, prototype)
  others = jnp.where(is_negative, product(anchors, negatives.T), -1e9)  # e^-1e9 is 0, and has no NaN in its gradient.
  total = jax.nn.logsumexp(jnp.concatenate([positive[:, None], others], axis=-1), axis=-1)
  return ops.masked_mean(total - positive, is_anchor & jnp.any(is_negative)) / features.shape[0]


def _draw(key, rows, eligible, count):
  """`count` of the `eligible` rows [N, C], each at most once: (rows, whether there was one)."""
  scores = jnp.where(eligible, jax.random.uniform(key, eligible.shape), -1.0)
  score, place = jax.lax.top_k(scores, min(count, eligible.shape[0]))
  return rows[place], score >= 0
