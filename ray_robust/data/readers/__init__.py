"""Listings of labelled images: in folders, zips, tars, shards and CSV files, with every error in them reported."""
