"""What a score depends on, as plain JSON values."""

from layershap.fingerprint.compare import differences
from layershap.fingerprint.fields import behaviour, fingerprint, model_fields
from layershap.fingerprint.weights import weights_digest

__all__ = ["behaviour", "differences", "fingerprint", "model_fields", "weights_digest"]
