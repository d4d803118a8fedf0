"""An example of a package of one's own: a method, a metric, a reader and a network, one file each."""
