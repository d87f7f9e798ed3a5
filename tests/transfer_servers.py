"""Stand-ins for vLLM servers that weights are sent to: one of records, one around an engine."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import torch

from sapo_vl.generator.servers import gloo_link, shared_memory
from sapo_vl.generator.servers.chunks import layout


class RecordingServer:
    """Answers as a server with our engine does, keeps what it was sent, and fails where told."""

    def __init__(
        self,
        number: int = 1,
        fails_at: str = "",
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.address = f"http://127.0.0.1:{number}"
        self.before = before  # called at the start of each post
        self.fails_at = fails_at  # path at which it raises
        self.calls: list[str] = []
        self.version = "default"
        self.sent: dict[str, Any] = {}
        self.active = False
        self.adapters: list[str] = []  # how and from where each was loaded
        self.folders: dict[str, dict[str, bytes]] = {}  # uploaded ones

    def post(self, path: str, json: Any = None, timeout: float = 60.0) -> Any:
        assert timeout > 0
        self.calls.append(path)
        self.before()
        route = path.partition("?")[0]
        if route == self.fails_at:
            raise RuntimeError(f"{self.address} is broken")
        if route == "/collective_rpc":
            return {"results": [self._state(json)]}
        if route == "/update_weights" and json["update_info"].get("path"):
            info = json["update_info"]
            entries = layout(info["names"], info["dtypes"], info["shapes"])
            buffer = shared_memory.open_buffer(info["path"], entries[-1].stop)
            self.sent |= {entry.name: entry.view(buffer).clone() for entry in entries}
        if route == "/finish_weight_update":
            self.active = False
            self.version = (json or {}).get("weight_version", self.version)
        if route == "/update_weight_version":
            self.version = json["new_version"]
        if route == "/v1/load_lora_adapter":
            self.adapters.append(f"new {json['lora_name']} {json['lora_path']}")
        return {"success": True}

    tell = post

    def get(self, path: str, timeout: float = 60.0) -> Any:
        self.calls.append(path)
        if path == self.fails_at:
            raise RuntimeError(f"{self.address} is broken")
        loaded = [{"id": "policy"}] if self.adapters else []
        return {"weight_version": self.version, "data": [{"id": "base"}, *loaded]}

    def _state(self, body: Any) -> dict[str, Any] | None:
        method, given = body["method"], body["kwargs"]
        if method == "sapo_write":
            files = self.folders.setdefault(given["folder"], {})
            files[given["file"]] = files.get(given["file"], b"") + b64decode(given["data"])
            return {"folder": f"/there/{given['folder']}"}
        if method == "sapo_load_adapter":
            self.adapters.append(f"in place {given['path']}")
            return None
        if method == "sapo_keep_upload":
            return None
        assert method == "sapo_state", method
        return {"active": self.active, "digest": self._digest(given["path"])}

    def _digest(self, path: str) -> str:
        folder, _, file = path.removeprefix("/there/").partition("/")
        if folder in self.folders:
            return sha256(self.folders[folder].get(file, b"")).hexdigest()
        return shared_memory.digest(path)


class GlooServer(RecordingServer):
    """A server that doesn't see the learner's memory; its one worker is the calling thread."""

    def post(self, path: str, json: Any = None, timeout: float = 60.0) -> Any:
        answer = super().post(path, json, timeout)
        if path == "/init_weight_transfer_engine":
            info = json["init_info"]
            self._link = gloo_link.join(info["host"], info["port"], 1, 2, info["seconds"])
        if path == "/update_weights" and json["update_info"]["names"]:
            info = json["update_info"]
            entries = layout(info["names"], info["dtypes"], info["shapes"])
            buffer = torch.empty(entries[-1].stop, dtype=torch.uint8)
            self._link.broadcast(buffer).wait()
            self.sent |= {entry.name: entry.view(buffer).clone() for entry in entries}
        return answer

    def get(self, path: str, timeout: float = 60.0) -> Any:
        return super().get(path, timeout) | {"world_size": 1}

    def _digest(self, path: str) -> str:
        return super()._digest(path) if path.startswith("/there/") else ""


class EngineServer:
    """An engine in this process behind a server's routes: vLLM's own code below them is run."""

    address = "http://127.0.0.1:1"

    def __init__(self, llm: Any) -> None:
        """Give the engine of an `LLM` our transfer engine, as its command line would."""
        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.distributed.weight_transfer import WeightTransferEngineFactory

        from sapo_vl.generator.servers import plugin
        from sapo_vl.generator.servers.chunks import BACKEND

        self.llm = llm
        self.calls: list[str] = []
        self._extension = plugin.WorkerExtension
        self.worker = llm.llm_engine.model_executor.driver_worker.worker
        self.worker.weight_transfer_engine = WeightTransferEngineFactory.create_engine(
            WeightTransferConfig(backend=BACKEND),
            self.worker.vllm_config,
            self.worker.device,
            self.worker.model_runner.get_model(),
        )

    def post(self, path: str, json: Any = None, timeout: float = 60.0) -> Any:
        self.calls.append(path)
        route, core = path.partition("?")[0], self.llm.llm_engine
        if route == "/collective_rpc":
            method = getattr(self._extension, json["method"])
            return {"results": [method(self.worker, **json["kwargs"])]}
        if route in ("/init_weight_transfer_engine", "/update_weights"):
            return getattr(self.llm, route[1:])(json)
        if route == "/finish_weight_update":
            return self.llm.finish_weight_update((json or {}).get("weight_version"))
        if route == "/update_weight_version":
            return self.llm.update_weight_version(json["new_version"])
        if route == "/start_weight_update":
            return self.llm.start_weight_update()
        if route == "/reset_prefix_cache":
            return {"success": core.reset_prefix_cache()}
        if route == "/reset_encoder_cache":
            return core.reset_encoder_cache()
        assert route in ("/pause", "/resume"), route  # an engine in this process can't be running
        return None

    tell = post

    def get(self, path: str, timeout: float = 60.0) -> Any:
        if path == "/get_world_size":
            return {"world_size": 1}
        assert path == "/weight_info", path
        return {"weight_version": self.llm.get_weight_version()}
