"""The only folder that imports Ray: from a plan to finished trials, on this machine or a cluster."""
