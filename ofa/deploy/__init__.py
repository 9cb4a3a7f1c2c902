"""What leaves the toolkit: ONNX files, bundles that describe themselves, and the means to check them again."""

from ofa.deploy.artefact import ExportOptions, check_options, judge_artefact, make_artefact
from ofa.deploy.bundle import BundleError, BundleInfo, Latency, read_bundle, write_bundle
from ofa.deploy.controller import LatencyController
from ofa.deploy.deployment import Deployed, deploy
from ofa.deploy.elastic_format import ElasticError
from ofa.deploy.elastic_runtime import ElasticRuntime
from ofa.deploy.elastic_write import ElasticOptions, write_elastic
from ofa.deploy.parity import ParityError
from ofa.deploy.targets import TARGETS, TargetError
from ofa.deploy.verify import Check, VerifyResult, verify_bundle
from ofa.deploy.walk_down import ExportResult, export_bundle, measure_on, read_candidates
from ofa.formats.onnx import export_onnx

__all__ = [
    "TARGETS",
    "BundleError",
    "BundleInfo",
    "Check",
    "Deployed",
    "ElasticError",
    "ElasticOptions",
    "ElasticRuntime",
    "ExportOptions",
    "ExportResult",
    "Latency",
    "LatencyController",
    "ParityError",
    "TargetError",
    "VerifyResult",
    "check_options",
    "deploy",
    "export_bundle",
    "export_onnx",
    "judge_artefact",
    "make_artefact",
    "measure_on",
    "read_bundle",
    "read_candidates",
    "verify_bundle",
    "write_bundle",
    "write_elastic",
]
