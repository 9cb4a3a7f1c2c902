"""What leaves the toolkit: ONNX files, bundles that describe themselves, and the means to check them again."""

from ofa.deploy.bundle import BundleError, BundleInfo, check_destination, read_bundle, write_bundle
from ofa.deploy.export import ExportResult, export_bundle, measure_on, read_candidates
from ofa.deploy.onnx_export import export_onnx
from ofa.deploy.parity import ParityError, check_parity, run_logits
from ofa.deploy.verify import Check, VerifyResult, verify_bundle

__all__ = [
    "BundleError",
    "BundleInfo",
    "Check",
    "ExportResult",
    "ParityError",
    "VerifyResult",
    "check_destination",
    "check_parity",
    "export_bundle",
    "export_onnx",
    "measure_on",
    "read_bundle",
    "read_candidates",
    "run_logits",
    "verify_bundle",
    "write_bundle",
]
