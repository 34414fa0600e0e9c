"""The compression methods: base.py is the contract, one file per method."""
