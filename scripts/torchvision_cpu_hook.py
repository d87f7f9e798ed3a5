"""Import hook: a CUDA build of torchvision becomes importable beside a CPU build of torch.

setup.sh copies this file into an environment's site-packages, beside a one-line `.pth` that imports
it, and only if `import torchvision` fails with `operator torchvision::nms does not exist`. It
patches that environment; nothing in sapo_vl imports it.

Why a `.pth`: transformers needs torchvision for Qwen3-VL's processor (its python transforms only),
and vLLM inspects models in a subprocess and spawns workers, so the patch must act in every process.
Why a finder: importing torch takes seconds, so the patch waits until torchvision is imported.
Left out: the operators themselves. Only their schemas are defined; calling one is still an error.
"""

from __future__ import annotations

import sys

# torchvision imports `extension`, which tries to load its compiled operators, and then these.
AFTER_EXTENSION = ("torchvision._autograd_registrations", "torchvision._meta_registrations")
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
KEEP_ALIVE = []  # garbage collection of a torch Library removes its definitions


class TorchvisionFinder:
    """Defines the missing schemas just before torchvision looks them up; finds no modules."""

    def find_spec(self, fullname, path=None, target=None):  # noqa: ANN001, ANN201
        """Return None, so that the standard finders load the module."""
        if fullname in AFTER_EXTENSION:
            define_missing_schemas()


def define_missing_schemas() -> None:
    """Define the schemas in `SCHEMAS` that torch doesn't have, if torch is a CPU build."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(SCHEMAS[name])
        KEEP_ALIVE.append(library)


sys.meta_path.insert(0, TorchvisionFinder())
