"""Clusters that outlive a cell, on the memory broker."""

from __future__ import annotations

from pathlib import Path

from brokerproof.runtime.pool import ClusterKey, Pool


def key(version: str) -> ClusterKey:
    return ClusterKey.of("memory", version, "single", {})


def test_a_cluster_that_nobody_needs_any_more_gives_way_to_another(tmp_path: Path) -> None:
    pool = Pool(run="pool-1", folder=tmp_path)
    with pool.lease(key("sound"), progress=lambda _: None) as first:
        pass
    with pool.lease(key("doubles"), progress=lambda _: None):
        pass
    with pool.lease(key("sound"), progress=lambda _: None) as again:
        assert again is not first
    pool.close()


def test_a_cluster_that_is_leased_or_needed_later_stays(tmp_path: Path) -> None:
    pool = Pool(run="pool-2", folder=tmp_path)
    with pool.lease(key("sound"), progress=lambda _: None) as first:
        with pool.lease(key("doubles"), progress=lambda _: None) as other:
            assert other is not first
        # The other one was given back and is not needed: it goes, and what is leased stays.
        with pool.lease(key("reorders"), progress=lambda _: None, needed={key("doubles")}):
            pass
        with pool.lease(key("doubles"), progress=lambda _: None) as kept:
            assert kept is other
    with pool.lease(key("sound"), progress=lambda _: None, needed={key("doubles")}) as again:
        assert again is first
    pool.close()
