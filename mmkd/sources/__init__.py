"""Sources: what turns a data set, or a renderer, into clips that the packer writes as shards."""
