"""What Kilowatch's speed is measured with: `make bench`. How, and what the figures mean: docs/performance.md."""
