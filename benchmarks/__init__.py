"""What Kilowatch's speed is measured with: `make bench`."""
