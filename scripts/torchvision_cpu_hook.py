"""Let a CUDA build of torchvision be imported beside a CPU build of torch.

setup.sh copies this file into an environment's site-packages, with a one-line `.pth` that imports
it, and only where `import torchvision` fails with `operator torchvision::nms does not exist`. It is
a patch of that environment: nothing in sapo_vl imports it.

Why a `.pth`: transformers needs torchvision for Qwen3-VL's processor (its python transforms only),
and vLLM inspects models in a subprocess and spawns workers; the cure has to hold in each of them.
Why a finder: torch takes seconds to import, so nothing happens before torchvision is wanted.
Left out: the operators themselves. Only their schemas are defined; calling one is still an error.
"""

from __future__ import annotations

import sys

# torchvision first imports `extension` (which loads its compiled operators, if it can), then these.
AFTER_EXTENSION = ("torchvision._autograd_registrations", "torchvision._meta_registrations")
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
KEEP_ALIVE = []  # a torch Library takes its definitions with it when it is collected


class TorchvisionFinder:
    """Finds nothing; it defines the missing schemas just before torchvision looks for them."""

    def find_spec(self, fullname, path=None, target=None):  # noqa: ANN001, ANN201
        """Return None always, so that the ordinary finders load the module."""
        if fullname in AFTER_EXTENSION:
            define_missing_schemas()


def define_missing_schemas() -> None:
    """Define the schemas of `SCHEMAS` that torch doesn't know, if torch is a CPU build."""
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
