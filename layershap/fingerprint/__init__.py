"""What a score depends on, as plain JSON values."""

from layershap.fingerprint.compare import differences
from layershap.fingerprint.fields import behaviour, model_fields, text_fields
from layershap.fingerprint.weights import weights_digest

__all__ = ["behaviour", "differences", "model_fields", "text_fields", "weights_digest"]
