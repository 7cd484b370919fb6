"""The one error hierarchy. Every message is a sentence that says what is wrong and what to do.

MienError                   anything mien refuses to do
├── InputError              the user's words, files or options cannot be used
│   ├── SpecError           a trait spec is empty, absurd or malformed
│   └── FormatError         a file is corrupt, hostile, or not of the format it claims
├── ModelError              a model is missing, not a causal LM, or cannot be read
│   ├── FingerprintError    a direction was made for another model
│   └── NonFiniteError      activations or logits are NaN or infinite
├── EndpointError           an HTTP endpoint hangs, refuses, or answers with garbage
├── NothingKeptError        no rollout survived judging; there is no direction to make
├── RunError                a run folder belongs to something else, is locked, or cannot be written
└── MissingExtraError       an optional dependency is not installed; the message has the command
"""

from __future__ import annotations


class MienError(Exception):
    """Base of every error that mien raises on purpose; `str(error)` is one plain sentence."""

    exit_code = 1


class InputError(MienError):
    """The user's words, files or options cannot be used."""

    exit_code = 2


class SpecError(InputError):
    """A trait spec is empty, absurd or malformed."""


class FormatError(InputError):
    """A file is corrupt, hostile, or not of the format it claims to be."""


class ModelError(MienError):
    """A model is missing, not a causal LM, or cannot be read."""

    exit_code = 3


class FingerprintError(ModelError):
    """A direction was made for another model than the one it is used on."""


class NonFiniteError(ModelError):
    """Activations or logits hold NaN or infinity."""


class EndpointError(MienError):
    """An HTTP endpoint hangs, refuses, or answers with garbage."""

    exit_code = 4


class NothingKeptError(MienError):
    """No rollout survived judging, so there is nothing to make a direction of."""

    exit_code = 5


class RunError(MienError):
    """A run folder belongs to another run, is in use, or cannot be written."""

    exit_code = 6


class MissingExtraError(MienError):
    """An optional dependency is not installed."""

    exit_code = 7
