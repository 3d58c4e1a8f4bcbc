"""Other libraries, each as its users use it, and what they need to be measured; nothing of seqmtl is imported here."""
