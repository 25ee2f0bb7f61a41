"""The outer ring: AnnData and files in, checked arrays out, predictions back."""
