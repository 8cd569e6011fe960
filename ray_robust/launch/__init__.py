"""The only folder that knows Ray: from a plan to finished trials, on this machine or a cluster."""
