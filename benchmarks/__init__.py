"""Arkwright and its peers on the same work: `./dev bench`; see docs/explanation/performance.md."""
