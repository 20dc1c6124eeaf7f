"""Several machines on one box: network namespaces with own addresses, a Ray node in each, and what may happen to them."""
