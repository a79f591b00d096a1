"""Files and folders that are whole or not there, and that never take the place of somebody else's."""

from farss.storage.files import read_tensors, write_atomically, write_json, write_tensors
from farss.storage.folders import held, new_folder

__all__ = ["held", "new_folder", "read_tensors", "write_atomically", "write_json", "write_tensors"]
