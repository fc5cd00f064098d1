"""A cluster that asks for a token gets that of the user, whatever its mode here; who has another one reads why."""

from __future__ import annotations

import ray
from small import toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.workers.ray_session import MODE, TOKEN, TOKEN_PATH, authentication, write_token


def test_a_cluster_gets_the_token_that_it_asks_for(tmp_path, monkeypatch, capfd):
    from ray.cluster_utils import Cluster

    mine, other = (tmp_path / name for name in ("mine", "other"))
    mine.mkdir()
    other.mkdir()
    for name in (MODE, TOKEN, TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with authentication("token", write_token(mine)):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            more = ("--methods", "learns", "--metrics", "truth", "--no-controls", "--no-plots")
            command = [*toy_run(tmp_path, *more), "--address", cluster.address]
            monkeypatch.delenv(MODE)
            for path in (str(write_token(other)), str(tmp_path / "none"), ""):
                monkeypatch.setenv(TOKEN_PATH, path)
                if not path:
                    monkeypatch.delenv(TOKEN_PATH)
                assert cfbench(command) == 1
                said = capfd.readouterr().err
                assert "gcs_client" not in said
                (line,) = [line for line in said.splitlines() if "--address" in line]
                assert line.startswith(
                    f"cfbench: error: --address {cluster.address}: this cluster asks for a token, and yours"
                )
                assert not ray.is_initialized()
            monkeypatch.setenv(TOKEN_PATH, str(mine / "token"))
            assert cfbench(command) == 0
            assert "no authentication" not in capfd.readouterr().err
        finally:
            cluster.shutdown()
