"""Sending weights to servers: chunks, who owns a server, the order of calls, servers that fail."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from transfer_servers import GlooServer, RecordingServer

from sapo_vl.errors import RunError, SetupError
from sapo_vl.generator.servers import (
    adapter_upload,
    chunks,
    ownership,
    routes,
    shared_memory,
    transfer,
)
from sapo_vl.generator.servers.expected import ExpectedWeights
from sapo_vl.generator.servers.nccl_route import batches
from sapo_vl.model import lora, weight_files
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.weights import load_weights

WEIGHTS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c": torch.arange(100, dtype=torch.float64),
    "d": torch.tensor(3.0),
}


def sender(owner: str = "me") -> transfer.WeightSender:
    return transfer.WeightSender(routes.ChunkRoute(), owner)


def packed(limit: int) -> list[chunks.Chunk]:
    return list(
        chunks.pack(WEIGHTS.items(), lambda n: torch.empty(n, dtype=torch.uint8), limit=limit)
    )


def test_tensors_lie_at_multiples_of_64_bytes():
    (chunk,) = packed(1 << 20)
    assert [(e.start, e.stop) for e in chunk.entries] == [(0, 24), (64, 68), (128, 928), (960, 964)]
    assert chunk.size == 964


def test_a_chunk_is_read_by_its_description():
    (chunk,) = packed(1 << 20)
    told = chunk.description()
    assert told["dtypes"] == ["float32", "bfloat16", "float64", "float32"]
    assert told["shapes"] == [[2, 3], [2], [100], []]
    for entry in chunks.layout(told["names"], told["dtypes"], told["shapes"]):
        torch.testing.assert_close(entry.view(chunk.buffer), WEIGHTS[entry.name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="a: 'float7' is no type"):
        chunks.layout(["a"], ["float7"], [[1]])


def test_chunks_have_at_most_the_limit_or_one_tensor():
    found = packed(128)
    assert [[e.name for e in chunk.entries] for chunk in found] == [["a", "b"], ["c"], ["d"]]
    assert [len(chunk.buffer) for chunk in found] == [128, 800, 128]


def test_a_tensor_is_copied_before_the_next_one_is_asked_for():
    """Under ZeRO-3 a gathered tensor holds other values, or none, after that."""

    def reused():
        tensor = torch.empty(4)
        for i in range(3):
            tensor.fill_(i)
            yield f"w{i}", tensor

    (chunk,) = chunks.pack(reused(), lambda n: torch.empty(n, dtype=torch.uint8))
    assert [float(e.view(chunk.buffer).sum()) for e in chunk.entries] == [0, 4, 8]
    copies = [[float(t.sum()) for _, t in batch] for batch in batches(reused(), limit=32)]
    assert copies == [[0, 4], [8]]


def hold_a_buffer(out) -> None:
    buffer = shared_memory.SharedBuffer(1000)
    buffer.tensor.fill_(7)
    out.send(buffer.path)
    time.sleep(60)


def test_shared_memory_is_read_by_another_process_and_ends_with_its_owner():
    """Also where the owner is killed."""
    context = multiprocessing.get_context("fork")
    inward, outward = context.Pipe(duplex=False)
    owner = context.Process(target=hold_a_buffer, args=(outward,), daemon=True)
    owner.start()
    path = inward.recv()
    tensor = shared_memory.open_buffer(path, 1000)
    owner.kill()
    owner.join()
    assert int(tensor.sum()) == 7000  # mapped, so it lasts
    with pytest.raises(OSError):
        shared_memory.open_buffer(path, 1000)
    assert shared_memory.digest(path) == ""


def test_closed_buffers_leave_no_file_open():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with shared_memory.SharedBuffer(100) as buffer:
            buffer.tensor.fill_(1)
    assert len(os.listdir("/proc/self/fd")) == before


def expected(tied: bool = True) -> ExpectedWeights:
    shapes = {
        "model.q.weight": (4, 2),
        "model.k.weight": (2, 2),
        "lm_head.weight": (8, 2),
        "mtp.layers.0.weight": (3, 3),
    }
    return ExpectedWeights(shapes, tied, lambda name: name.removeprefix("model."))


def test_all_weights_of_the_model_have_to_come():
    found = expected()
    found.start()
    found.receive("model.q.weight", (4, 2))
    with pytest.raises(ValueError, match=r"model.k.weight didn't come \(1 of 2 weights"):
        found.check_complete()
    found.receive("k.weight", (2, 2))  # by another name that vLLM reads alike
    found.check_complete()
    found.start()
    with pytest.raises(ValueError, match=r"2 of 2"):
        found.check_complete()


def test_a_head_of_its_own_has_to_come():
    found = expected(tied=False)
    found.start()
    for name, shape in (("model.q.weight", (4, 2)), ("model.k.weight", (2, 2))):
        found.receive(name, shape)
    with pytest.raises(ValueError, match=r"lm_head\.weight didn't come"):
        found.check_complete()


def test_weights_of_another_model_are_refused_by_name():
    found = expected()
    found.start()
    with pytest.raises(ValueError, match=r"model.q.weight came as \[4, 3\], and is \[4, 2\]"):
        found.receive("model.q.weight", (4, 3))
    with pytest.raises(ValueError, match=r"no weight model\.v\.weight"):
        found.receive("model.v.weight", (2, 2))


def test_an_update_is_these_calls_in_this_order():
    server = RecordingServer()
    sender().send([server], WEIGHTS.items(), 12)
    assert server.calls == [
        "/weight_info",
        "/update_weight_version",  # claimed
        "/collective_rpc",  # an update under way?
        "/collective_rpc",  # our memory seen?
        "/init_weight_transfer_engine",
        "/pause?mode=wait&clear_cache=false",
        "/start_weight_update",
        "/update_weights",
        "/update_weights",  # the end
        "/finish_weight_update",
        "/reset_prefix_cache?reset_running_requests=true",
        "/reset_encoder_cache",
        "/resume",
        "/weight_info",
    ]
    assert server.version == "me.12"
    assert server.sent.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(server.sent[name], tensor)


def test_requests_under_way_may_go_on_by_new_weights():
    """The caches stay: the requests' own keys tell versions apart."""
    server, mine = (
        RecordingServer(),
        transfer.WeightSender(routes.ChunkRoute(), "me", in_flight=True),
    )
    mine.send([server], WEIGHTS.items(), 12)
    calls = server.calls[server.calls.index("/pause?mode=keep&clear_cache=false") :]
    assert calls == [
        "/pause?mode=keep&clear_cache=false",
        "/start_weight_update",
        "/update_weights",
        "/update_weights",  # the end
        "/finish_weight_update",
        "/resume",
        "/weight_info",
    ]


def test_versions_of_one_owner_in_order():
    assert ownership.in_order(["me.7"])
    assert ownership.in_order(["me.7", "me.7", "me.9", "me.10"])
    assert not ownership.in_order(["me.7", "me.6"])
    assert not ownership.in_order(["me.7", "you.8"])
    assert not ownership.in_order(["me.7", "me.claimed"])


def test_a_connected_server_is_only_asked_for_its_owner():
    server, mine = RecordingServer(), sender()
    mine.send([server], WEIGHTS.items(), 1)
    server.calls.clear()
    mine.send([server], WEIGHTS.items(), 2)
    assert server.calls[:3] == [
        "/weight_info",
        "/pause?mode=wait&clear_cache=false",
        "/start_weight_update",
    ]


def test_a_restarted_server_is_connected_anew():
    servers, mine = [RecordingServer(1), RecordingServer(2)], sender()
    mine.send(servers, WEIGHTS.items(), 1)
    servers[1].version = "default"
    for server in servers:
        server.calls.clear()
    mine.send(servers, WEIGHTS.items(), 2)
    assert all("/init_weight_transfer_engine" in server.calls for server in servers)
    assert [server.version for server in servers] == ["me.2", "me.2"]


def test_an_update_that_a_killed_learner_began_is_ended_first():
    server = RecordingServer()
    server.active, server.version = True, "me.4"
    sender().send([server], WEIGHTS.items(), 5)
    assert server.calls.index("/finish_weight_update") < server.calls.index("/start_weight_update")
    assert server.version == "me.5"


@pytest.mark.parametrize(
    "path",
    [
        *("/weight_info", "/init_weight_transfer_engine", "/pause", "/start_weight_update"),
        *("/update_weights", "/finish_weight_update", "/reset_prefix_cache", "/resume"),
    ],
)
def test_a_server_that_fails_is_named_and_the_others_are_served(path):
    servers = [RecordingServer(1), RecordingServer(2, fails_at=path), RecordingServer(3)]
    taken = []
    weights = ((taken.append(name), (name, tensor))[1] for name, tensor in WEIGHTS.items())
    with pytest.raises(transfer.TransferError, match=r"weights 7 .*:2 is broken") as told:
        sender().send(servers, weights, 7)
    assert list(told.value.failures) == ["http://127.0.0.1:2"]
    assert [servers[i].version for i in (0, 2)] == ["me.7", "me.7"]
    assert taken == list(WEIGHTS)
    assert path == "/resume" or "/resume" not in servers[1].calls


def test_all_weights_are_gone_through_when_no_server_is_left():
    """Other ranks gather them together with this one."""
    taken = []
    weights = ((taken.append(name), (name, tensor))[1] for name, tensor in WEIGHTS.items())
    with pytest.raises(transfer.TransferError):
        sender().send([RecordingServer(1, fails_at="/pause")], weights, 7)
    assert taken == list(WEIGHTS)


def test_a_server_that_failed_gets_the_next_update():
    server, mine = RecordingServer(1, fails_at="/update_weights"), sender()
    with pytest.raises(transfer.TransferError):
        mine.send([server], WEIGHTS.items(), 1)
    server.fails_at = ""
    mine.send([server], WEIGHTS.items(), 2)
    assert server.version == "me.2"


def test_servers_are_called_side_by_side():
    """Each waits in each call for the other one's."""
    together = threading.Barrier(2, timeout=10)
    servers = [RecordingServer(i, before=together.wait) for i in (1, 2)]
    sender().send(servers, WEIGHTS.items(), 1)
    assert [server.version for server in servers] == ["me.1", "me.1"]


def test_servers_of_another_machine_get_weights_by_gloo():
    servers = [GlooServer(1), GlooServer(2), RecordingServer(3)]
    mine = sender()
    for version in (1, 2):
        mine.send(servers, WEIGHTS.items(), version)
    for server in servers:
        assert server.version == "me.2"
        for name, tensor in WEIGHTS.items():
            assert torch.equal(server.sent[name], tensor)


def test_gloo_to_a_server_that_refuses_its_weights_ends_at_once():
    """Its workers don't receive what is already being sent."""
    servers, mine = [GlooServer(1), GlooServer(2)], sender()
    mine.send(servers, WEIGHTS.items(), 1)
    servers[0].fails_at = "/update_weights"
    start = time.monotonic()
    with pytest.raises(transfer.TransferError, match=":1 is broken"):
        mine.send(servers, WEIGHTS.items(), 2)
    servers[0].fails_at = ""
    mine.send(servers, WEIGHTS.items(), 3)
    assert [server.version for server in servers] == ["me.3", "me.3"]
    assert time.monotonic() - start < 20


def test_a_server_of_another_run_is_refused_until_it_is_released():
    server, first = RecordingServer(), sender("first")
    first.send([server], WEIGHTS.items(), 3)
    server.calls.clear()
    with pytest.raises(SetupError, match=r"http://127.0.0.1:1 serves another run .*first.3"):
        sender("second").send([server], WEIGHTS.items(), 1)
    assert server.calls == ["/weight_info"]
    sender("first").send([server], WEIGHTS.items(), 4)  # resumed after a kill
    first.release([server])
    sender("second").send([server], WEIGHTS.items(), 1)
    assert server.version == "second.1"
    with pytest.raises(SetupError, match="another run"):
        first.send([server], WEIGHTS.items(), 5)


class Folder:
    """Writes an adapter's folder with no model at hand; see AdapterFolder."""

    def __init__(self, root: Path) -> None:
        self.root, self.version = root, 0

    def write(self, weights) -> Path:
        self.version += 1
        folder = self.root / f"v{self.version}"
        folder.mkdir()
        (folder / lora.SETTINGS).write_text(f"settings {self.version}")
        (folder / lora.WEIGHTS).write_bytes(b"".join(t.numpy().tobytes() for _, t in weights))
        return folder


def test_an_adapter_goes_by_its_folder_or_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_upload, "PIECE_BYTES", 5)
    near, far = RecordingServer(1), GlooServer(2)
    mine = transfer.WeightSender(routes.ChunkRoute(), "me", Folder(tmp_path))
    for version in (1, 2):
        mine.send_adapter([near, far], [("x", torch.arange(3))], version)
    assert near.adapters == [f"new policy {tmp_path}/v1", f"in place {tmp_path}/v2"]
    first, second = far.folders  # a name of its own for each version
    assert far.adapters == [f"new policy /there/{first}", f"in place /there/{second}"]
    assert far.folders[second] == {
        lora.SETTINGS: b"settings 2",
        lora.WEIGHTS: torch.arange(3).numpy().tobytes(),
    }
    assert near.calls[-5:] == [
        "/update_weight_version",
        *("/reset_prefix_cache?reset_running_requests=true", "/reset_encoder_cache"),
        *("/resume", "/weight_info"),
    ]
    assert [near.version, far.version] == ["me.2", "me.2"]
    mine.release([near, far])
    other = transfer.WeightSender(routes.ChunkRoute(), "other", Folder(tmp_path / "other"))
    other._adapter.root.mkdir()
    other.send_adapter([near, far], [("x", torch.arange(3))], 1)


def test_an_upload_that_arrives_otherwise_is_noticed(tmp_path):
    server = GlooServer(1)
    server._digest = lambda path: ""
    mine = transfer.WeightSender(routes.ChunkRoute(), "me", Folder(tmp_path))
    with pytest.raises(transfer.TransferError, match=r"adapter_config\.json is not what was sent"):
        mine.send_adapter([server], [("x", torch.arange(3))], 1)
    assert not server.adapters
    assert "/resume" not in server.calls


def test_a_released_server_that_is_gone_is_no_error():
    server, mine = RecordingServer(), sender()
    mine.send([server], WEIGHTS.items(), 1)
    server.fails_at = "/update_weight_version"
    mine.release([server])


def test_a_version_that_did_not_take_is_noticed():
    server = RecordingServer()
    server.get = lambda path, timeout=60.0: {"weight_version": "me.1"}
    with pytest.raises(transfer.TransferError, match=r"are me\.1 after an update to me\.2"):
        sender().send([server], WEIGHTS.items(), 2)


def test_a_prefix_cache_that_is_not_dropped_is_noticed(monkeypatch):
    server = RecordingServer()
    post = server.post
    answers = {"/reset_prefix_cache?reset_running_requests=true": {"success": False}}
    server.post = lambda path, json=None, timeout=60.0: answers.get(path) or post(path, json)
    with pytest.raises(transfer.TransferError, match="prefix cache could not be dropped"):
        sender().send([server], WEIGHTS.items(), 2)
    assert "/resume" not in server.calls


def test_a_runs_token_lasts_and_differs_from_anothers(tmp_path):
    first = ownership.owner_token(tmp_path / "a")
    assert ownership.owner_token(tmp_path / "a") == first
    assert ownership.owner_token(tmp_path / "b") != first
    assert len(first) == 12


def test_an_error_travels_to_other_ranks_as_text():
    assert transfer._portable(None) is None
    told = transfer._portable(KeyError("x"))
    assert type(told) is RunError
    assert type(transfer._portable(SetupError("no"))) is SetupError


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_a_learner_sends_is_what_a_familys_files_hold(tiny_folders, family):
    """By name and shape, experts in their files' layout; the tied head goes with the embedding."""
    assets = open_assets(tiny_folders(family))
    folder = Path(assets.path)
    shapes = weight_files.local_shapes(weight_files.weight_files(folder))
    found = ExpectedWeights(shapes, tied_head=True, vllm_name=str)
    found.start()
    module = load_weights(assets, "float32")
    for name, tensor in module.named_parameters():
        found.receive(name, tuple(assets.family.to_checkpoint_layout(name, tensor).shape))
    found.check_complete()
