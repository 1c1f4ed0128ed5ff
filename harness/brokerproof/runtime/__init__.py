"""The ground clusters stand on: engine, images, containers, proxies, peer links, and sweeping it all up."""
