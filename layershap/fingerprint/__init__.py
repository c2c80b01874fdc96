"""What a score depends on, as plain JSON values."""

from layershap.fingerprint.compare import differences
from layershap.fingerprint.fields import fingerprint
from layershap.fingerprint.weights import weights_digest

__all__ = ["differences", "fingerprint", "weights_digest"]
