"""What a vLLM server needs of us to take weights from a learner: loaded in each of its workers.

`vllm serve --worker-extension-cls sapo_vl.generator.servers.plugin.WorkerExtension` names it (see
transfer.server_options). That option, and not an entry point of the package, because it works from
a checkout that isn't installed, says so at once where sapo_vl is missing, and leaves other vLLM
processes of the environment alone. vLLM imports this module before it makes its transfer engine,
so that the registration below is in time.

On CPUs the engine is ours (chunks.BACKEND): chunks of weights arrive in memory shared with the
learner or, from another machine, by gloo. On GPUs it is vLLM's own over NCCL.
"""

from __future__ import annotations

import atexit
import base64
import re
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from sapo_vl.generator.adapter_folder import SHARED_MEMORY
from sapo_vl.generator.servers import chunks, gloo_link, shared_memory
from sapo_vl.generator.servers.expected import ExpectedWeights
from sapo_vl.generator.vllm_engine import ADAPTER, repack
from sapo_vl.model import lora

UPLOAD_NAME = re.compile(r"sapo_vl-upload-[0-9a-f]+")


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Where this server's workers meet the learner; no host for one on the same machine."""

    host: str = ""
    port: int = 0
    seconds: float = 60.0  # deadline of the meeting


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One chunk (see chunks.py), or the end of the update."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    path: str = ""  # of the shared memory that holds it; without, it comes by gloo
    last: bool = False  # nothing follows: check that all weights came


class ChunkEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads chunks of weights, by Hugging Face's names, into a worker's model.

    Each tensor's name and shape is checked against the model folder that the server was started
    with before it is loaded, and at the end that none is missing: vLLM would leave layers that got
    nothing as they were, and fill fused layers that got a part with noise.
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See WeightTransferEngine."""
        super().__init__(*args, **kwargs)
        self._link: gloo_link.GlooLink | None = None
        self._expected: ExpectedWeights | None = None
        self._open = False  # layers wait for weights

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Join the learner's gloo group, unless it is on this machine."""
        self.shutdown()
        if init_info.host:
            parallel = self.parallel_config
            workers = parallel.world_size
            rank = parallel.data_parallel_index * workers + parallel.rank
            size = 1 + workers * parallel.data_parallel_size
            self._link = gloo_link.join(
                init_info.host, init_info.port, 1 + rank, size, init_info.seconds
            )

    def start_weight_update(self) -> None:
        """Make each layer wait for its weights."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        if self._expected is None:
            self._expected = ExpectedWeights.of(self.model_config, self.model)
        self._close()
        self._expected.start()
        initialize_layerwise_reload(self.model)
        self._open = True

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load one chunk. Raises ValueError for weights that aren't this model's, or are missing.

        The model is unusable then, until a later update has brought all weights.
        """
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        assert self._expected is not None
        if update_info.last:
            self._expected.check_complete()
            return
        entries = chunks.layout(update_info.names, update_info.dtypes, update_info.shapes)
        buffer = self._receive(update_info.path, entries[-1].stop)
        for entry in entries:
            self._expected.receive(entry.name, entry.shape)
        with disable_mtp_completeness_check():  # it would want those heads in every chunk
            model: Any = self.model
            model.load_weights((entry.name, entry.view(buffer)) for entry in entries)

    def _receive(self, path: str, size: int) -> Tensor:
        if path:
            return shared_memory.open_buffer(path, size)
        assert self._link is not None, "a chunk by gloo before init_transfer_engine"
        buffer = torch.empty(size, dtype=torch.uint8)
        self._link.broadcast(buffer).wait()
        return buffer

    def finish_weight_update(self) -> None:
        """Put the layers into the form that vLLM computes with."""
        self._close()
        if self.device.type == "cpu":
            repack(self.model)

    def _close(self) -> None:
        """End what an update began, complete or not; vLLM's layers are usable as objects then."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        if self._open:
            finalize_layerwise_reload(self.model, self.model_config)
            self._open = False

    def shutdown(self) -> None:
        """Leave the learner's group."""
        self._link = None


class WorkerExtension:
    """Methods added to vLLM's workers, which /collective_rpc and `LLM.collective_rpc` call."""

    _sapo_upload = ""  # the folder of the adapter in use, if it came by `sapo_write`

    def sapo_state(self, path: str) -> dict[str, Any]:
        """Return whether an update is under way, and the digest of the file at `path`."""
        active = bool(self._weight_update_active)  # type: ignore[attr-defined]
        return {"active": active, "digest": shared_memory.digest(path)}

    def sapo_write(self, folder: str, file: str, data: str) -> dict[str, str]:
        """Append base64 `data` to an adapter's file in this machine's memory; return its folder.

        For learners on other machines. `folder` is a name that the learner makes up for each
        adapter. Raises ValueError for names that could lie elsewhere.
        """
        if not UPLOAD_NAME.fullmatch(folder) or file not in (lora.WEIGHTS, lora.SETTINGS):
            raise ValueError(f"{folder!r}, {file!r}: no name of an adapter's file")
        place = SHARED_MEMORY / folder
        if self.local_rank == 0:  # type: ignore[attr-defined]
            if not place.is_dir():
                place.mkdir(mode=0o700)
                atexit.register(shutil.rmtree, place, True)
            with (place / file).open("ab") as out:
                out.write(base64.b64decode(data))
        return {"folder": str(place)}

    def sapo_load_adapter(self, path: str) -> None:
        """Read the adapter in use anew, from another folder.

        vLLM's route for it (load_inplace) would mark each later request so that it reads the folder
        again at each step.
        """
        from vllm.lora.request import LoRARequest

        (number,) = self.list_loras()  # type: ignore[attr-defined]
        request = LoRARequest(ADAPTER, number, path, load_inplace=True)
        self.add_lora(request)  # type: ignore[attr-defined]

    def sapo_keep_upload(self, folder: str) -> None:
        """Remove the adapter uploaded before this one; `folder` is empty if this one wasn't."""
        old, self._sapo_upload = self._sapo_upload, folder
        if old and old != folder:
            shutil.rmtree(old, ignore_errors=True)


if chunks.BACKEND not in WeightTransferEngineFactory._registry:  # vLLM may import this twice
    WeightTransferEngineFactory.register_engine(chunks.BACKEND, ChunkEngine)
