"""`seqmtl bench`: how fast the training loop and the inference of a config are on this machine, on rows that it makes itself."""
