"""The run folder and what is kept beside it: trials, results, the lease, checksums, measured throughput."""
