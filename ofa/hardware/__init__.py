"""Devices: what they are, how networks are timed on them, and how latency tables are measured."""

from ofa.hardware.device import Device, UnknownDeviceError, list_devices, load_device
from ofa.hardware.measure import measure
from ofa.hardware.profiler import profile

__all__ = ["Device", "UnknownDeviceError", "list_devices", "load_device", "measure", "profile"]
