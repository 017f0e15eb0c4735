"""The errors that a user can mend."""


class UserError(ValueError):
  """Something outside the code is wrong; the message names it, the value seen and the remedy.

  launch.py prints these as one line. Every other exception is a defect of ours and keeps its traceback.
  """
