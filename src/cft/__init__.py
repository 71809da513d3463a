"""Calibration fine-tuning: language models that sample faithfully from a stated distribution."""


class CftError(Exception):
    """A mistake in the input or the environment, told in one line: what is wrong and what to do."""
