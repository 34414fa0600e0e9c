"""What images are worth: base.py is the contract, one file per metric."""
