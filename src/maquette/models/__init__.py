"""The networks, one file each: a frozen specification, then the network in the order of its paper."""
